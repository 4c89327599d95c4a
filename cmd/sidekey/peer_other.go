//go:build !linux

package main

import (
	"errors"
	"net"
)

// checkPeers says why there can be no admin socket.
func checkPeers() error { return errors.New("the admin socket needs Linux") }

func peerOf(*net.UnixConn) (peer, error) { return peer{}, checkPeers() }
