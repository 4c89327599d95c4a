package audit

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

// scanBoth reads line as the first of a chain after its session.started, the fast way and the slow one.
func scanBoth(t *testing.T, line []byte, c *chain) (fast bool) {
	t.Helper()
	var e, want Entry
	l, fast := newScanner().scan(line, c, &e)
	if !fast {
		return false
	}
	if err := json.Unmarshal(line, &want); err != nil {
		t.Fatalf("scan takes what is no record: %s\n%v", line, err)
	}
	e.Prev, e.Hash = string(l.prev), string(l.hash)
	if !reflect.DeepEqual(e, want) {
		t.Fatalf("scan reads\n%+v\nof\n%s\nwhich is\n%+v", e, line, want)
	}
	v := verifier{chain: c, enc: newEncoder()}
	c.at = position{seq: want.Seq - 1}
	copy(c.at.hash[:], want.Prev)
	if next, form := v.rebuild(line, &want); !form || next != l.next {
		t.Fatalf("scan takes what Append does not write: %s", line)
	}
	return true
}

func scanChain(t testing.TB) *chain {
	t.Helper()
	e := &Entry{Session: Session{ID: "s", Role: "r"}, Pod: Pod{UID: "u"}, Policy: Policy{1, "ab"}}
	context, err := encodeContext(newEncoder(), e.Session, e.Pod)
	if err != nil {
		t.Fatal(err)
	}
	c := newChain(e, context)
	if _, err := c.encodePolicy(newEncoder(), e.Policy); err != nil {
		t.Fatal(err)
	}
	return c
}

func scanLine(t testing.TB, c *chain, ev Event, fields []byte) []byte {
	t.Helper()
	var prev position
	prev.seq, prev.hash = 41, noDigest
	prev.hash[0] = '7'
	line, _ := appendLine(nil, prev, time.Date(2026, 2, 28, 23, 59, 59, 7, time.UTC), ev, c.context, c.policyJSON, fields)
	return line[:len(line)-1]
}

// Each field of a record that requests have is read the fast way, alone and with its neighbours.
func TestScanReadsRequests(t *testing.T) {
	c := scanChain(t)
	all := Record{
		Conn: "c", Entrance: "connect-h2", Method: "GET", Scheme: "https", Host: "h", Port: 65535, Path: "/x", PathHMAC: "00", PathSent: "/y", RequestID: "q",
		Route: "r", Credential: "c", Issuance: "i", Reason: "x", WouldDeny: "y", Intent: 1, Status: 200, BytesIn: 1 << 50, BytesOut: 2, DurationMS: 12.125,
		Attempts: 1, Error: "e", Protocol: "h2", Detail: "d",
	}
	none := []string{"Event", "Source", "Fingerprint", "IssuedAt", "ExpiresAt", "NotAfter", "By", "Unrevoked", "Version", "CA", "SigningKey", "Signature", "PromptSHA256", "Generation"}
	rest := map[string]bool{}
	for _, name := range none {
		rest[name] = true
	}
	check := func(what string, r Record) {
		t.Helper()
		fields, err := newEncoder().encode(&r)
		if err != nil {
			t.Fatal(err)
		}
		if line := scanLine(t, c, RequestIntent, fields); !scanBoth(t, line, c) {
			t.Errorf("%s: not read the fast way: %s", what, line)
		}
	}
	check("all", all)
	check("nothing", Record{})
	v := reflect.ValueOf(all)
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if rest[name] {
			continue
		}
		var one Record
		if v.Field(i).IsZero() {
			t.Errorf("%s is not tested; add it above", name)
		}
		reflect.ValueOf(&one).Elem().Field(i).Set(v.Field(i))
		check(name, one)
	}
}

// What scan takes, the slow way takes too, and reads the same.
func FuzzScan(f *testing.F) {
	for _, fields := range []string{
		`{}`, `{"conn":"c","port":443}`, `{"port":65536}`, `{"port":0}`, `{"port":01}`, `{"path":"\u00e9"}`, `{"path":""}`, `{"path":"a","path":"b"}`,
		`{"host":"h","conn":"c"}`, `{"duration_ms":0.001}`, `{"duration_ms":1.50}`, `{"duration_ms":100000000000000000}`, `{"duration_ms":0.0000001}`, `{"duration_ms":1e3}`,
		`{"duration_ms":0.1234567890123456}`, `{"duration_ms":.5}`, `{"duration_ms":00.5}`, `{"duration_ms":7.}`, `{"status":-1}`, `{"status":2147483648}`,
		`{"bytes_in":999999999999999999}`, `{"bytes_out":9999999999999999999}`, `{"detail":"d"} `, `{"detail":"d","unrevoked":["a"]}`, `{"hash":"x"}`, `{"Path":"x"}`,
	} {
		f.Add([]byte(fields), "2026-02-28T23:59:59.000000007Z", 0)
	}
	f.Add([]byte(`{}`), "2026-02-30T23:59:59.000000007Z", 1)
	f.Add([]byte(`{}`), "0000-01-01T24:00:00.000000000Z", 300)
	f.Fuzz(func(t *testing.T, fields []byte, at string, drop int) {
		c := scanChain(t)
		if len(fields) == 0 {
			return
		}
		line := scanLine(t, c, RequestOutcome, fields)
		if len(at) == len(timeFormat) {
			copy(line[len(`{"seq":42,"time":"`):], at)
		}
		if drop > 0 && drop < len(line) {
			line = append(line[:drop:drop], line[drop+1:]...)
		}
		scanBoth(t, line, c)
	})
}
