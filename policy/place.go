package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// metadataNames are the names under which clouds serve a machine's own credentials.
var metadataNames = []string{
	"metadata", "instance-data", // what search domains complete to those below
	"metadata.google.internal", "metadata.goog",
	"instance-data.ec2.internal",
	"metadata.azure.internal",
	"metadata.tencentyun.com",
	"metadata.platformequinix.com",
}

// metadataAddresses are the addresses behind them that are not link-local, which none may be.
var metadataAddresses = []netip.Addr{
	netip.MustParseAddr("100.100.100.200"), // Alibaba
	netip.MustParseAddr("168.63.129.16"),   // Azure
	netip.MustParseAddr("192.0.0.192"),     // Oracle
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd00:ec2::23"),    // AWS EKS pod identity
	netip.MustParseAddr("fd20:ce::254"),    // GCP
	netip.MustParseAddr("fd00:42::42"),     // Scaleway
}

// wrongPlace says why no route may lead to host, or to the names below it if wildcard, and what
// to write. What a route leads to in the end is checked where it is dialled; this is for people.
func wrongPlace(host string, wildcard bool) (msg, hint string) {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return fmt.Sprintf("%s is another address to every resolver", host), "write the address: 127.0.0.1 or [::1]"
	}
	const never = "remove the route; an agent must not reach it"
	if addr, err := netip.ParseAddr(host); err == nil {
		switch {
		case slices.Contains(metadataAddresses, addr), addr.IsLinkLocalUnicast():
			return fmt.Sprintf("%s belongs to the machine, and may hand out its credentials", host), never
		case addr.IsUnspecified(), addr.IsMulticast():
			return fmt.Sprintf("%s is not the address of one machine", host), "write the address to connect to"
		}
		return "", ""
	}
	for _, name := range metadataNames {
		if name == host && !wildcard || parentOf(name) == host && wildcard {
			return fmt.Sprintf("the host covers %s, where clouds hand out a machine's credentials", name), never
		}
	}
	return "", ""
}
