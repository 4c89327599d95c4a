package custody

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A pageTable is a table by columns. A column that was never set does not exist, and a cell that was
// not set is 0 or "".
type pageTable struct {
	N       int                    `json:"n"`
	Columns map[string]*pageColumn `json:"c"`

	words *pageWords
}

// A pageColumn holds one thing of every row.
type pageColumn struct {
	// Steps are numbers, each as the difference to the one before: times and sequence numbers
	// come in order, and small numbers compress.
	Steps []int64 `json:"d,omitempty"`

	// Values are numbers in no order.
	Values []int64 `json:"v,omitempty"`

	// Words are indices into pageData.Strings.
	Words []int `json:"s,omitempty"`

	// Texts are strings as they are, of a column whose strings are all different.
	Texts []string `json:"t,omitempty"`

	last int64 // the sum of Steps
}

// row begins the next row, and returns the table.
func (t *pageTable) row() *pageTable {
	t.N++
	return t
}

// number sets a cell of the last row to a number of no order.
func (t *pageTable) number(name string, v int64) {
	if v == 0 {
		return
	}
	c := t.column(name)
	c.Values = append(c.Values, make([]int64, t.N-1-len(c.Values))...)
	c.Values = append(c.Values, v)
}

// step sets a cell of the last row to a number that is near the one of the row before.
func (t *pageTable) step(name string, v int64) {
	if v == 0 {
		return
	}
	c := t.column(name)
	c.fill(t.N - 1)
	c.Steps = append(c.Steps, v-c.last)
	c.last = v
}

func (t *pageTable) flag(name string, v bool) {
	if v {
		t.number(name, 1)
	}
}

// text sets a cell of the last row.
func (t *pageTable) text(name, s string) {
	if s == "" {
		return
	}
	c := t.column(name)
	if name == "hmac" || name == "request" {
		c.Texts = append(c.Texts, make([]string, t.N-1-len(c.Texts))...)
		c.Texts = append(c.Texts, s)
		return
	}
	c.Words = append(c.Words, make([]int, t.N-1-len(c.Words))...)
	c.Words = append(c.Words, t.words.index(s))
}

func (t *pageTable) column(name string) *pageColumn {
	c := t.Columns[name]
	if c == nil {
		c = &pageColumn{}
		t.Columns[name] = c
	}
	return c
}

// fill makes c's numbers n long, with zeros.
func (c *pageColumn) fill(n int) {
	if len(c.Steps) < n {
		c.Steps = append(c.Steps, -c.last)
		c.last = 0
		c.Steps = append(c.Steps, make([]int64, n-len(c.Steps))...)
	}
}

// A pageWords holds each different string once. The first is "".
type pageWords struct {
	list []string
	at   map[string]int
}

func newPageWords() *pageWords {
	return &pageWords{list: []string{""}, at: map[string]int{"": 0}}
}

func (w *pageWords) table() *pageTable {
	return &pageTable{Columns: map[string]*pageColumn{}, words: w}
}

func (w *pageWords) index(s string) int {
	i, ok := w.at[s]
	if !ok {
		i = len(w.list)
		w.at[s] = i
		w.list = append(w.list, s)
	}
	return i
}

// micros returns t in microseconds since 1970, which a JavaScript number holds exactly; 0 for a zero t.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func metadataText(m map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s=%s", k, m[k]))
	}
	return strings.Join(parts, " ")
}
