package audit

import (
	"math/rand/v2"
	"testing"
	"time"
)

// appendTime and AppendFormat write the same.
func TestAppendTime(t *testing.T) {
	times := []time.Time{
		{}, time.Unix(0, 0), time.Unix(0, 1), time.Unix(0, 999999999), time.Date(1999, 12, 31, 23, 59, 59, 100, time.UTC),
		time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC), time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(0, 2, 29, 0, 0, 0, 0, time.UTC), time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC),
	}
	for range 10_000 {
		times = append(times, time.Unix(rand.Int64N(4e11)-6e10, rand.Int64N(1e9)))
	}
	for _, at := range times {
		got, want := string(appendTime([]byte("x"), at.UTC())), at.UTC().Format("x"+timeFormat)
		if got != want {
			t.Errorf("%v: %s, want %s", at.UnixNano(), got, want)
		}
	}
}

func BenchmarkAppendTime(b *testing.B) {
	at := time.Unix(1763900000, 123456789).UTC()
	var dst []byte
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			dst = appendTime(dst[:0], at)
		}
	})
	b.Run("AppendFormat", func(b *testing.B) {
		for b.Loop() {
			dst = at.AppendFormat(dst[:0], timeFormat)
		}
	})
}
