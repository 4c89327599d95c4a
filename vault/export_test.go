package vault

import (
	"context"
	"fmt"
	"net"
	"time"
)

// SetDial makes s dial with dial, so that tests run without sockets inside synctest bubbles.
func (s *Session) SetDial(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	s.client.transport.DialContext = dial
}

// PrintToken prints the current token under verb, as a careless line in this package might.
func (s *Session) PrintToken(verb string) string {
	return fmt.Sprintf(verb, *s.current) + fmt.Sprintf(verb, s.current.value) + fmt.Sprintf(verb, call{token: s.current.value})
}

// SetHost changes where s connects to after the address was checked.
func (s *Session) SetHost(host string) { s.client.base.Host = host }

// SetSpread makes spread, instead of chance, pick how much of its jitter a login waits. Call it
// before the first login.
func (s *Session) SetSpread(spread func(of time.Duration) time.Duration) { s.turn.part = spread }
