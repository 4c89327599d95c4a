package redact

// span is the half-open range of positions that one mask replaces.
type span struct{ start, end int }

// marks turns the matches of one text, in the order of their ends, into the pieces of the output.
type marks struct {
	// done is the position up to which the text has left, as it was or as a mask.
	done int
	// spans[head:] are the masks to come, in order and apart from each other.
	spans []span
	head  int
}

// add marks a match that ends at or behind all those before it.
func (m *marks) add(start, end int) {
	if start < m.done {
		// What has left behind the start of a match is always a mask: this match only makes
		// it longer, with all that waits in between.
		m.done = end
		m.spans, m.head = m.spans[:0], 0
		return
	}
	last := len(m.spans)
	for last > m.head && m.spans[last-1].end > start {
		last--
		start = min(start, m.spans[last].start)
	}
	m.spans = m.spans[:last]
	if m.head > len(m.spans)/2 {
		n := copy(m.spans, m.spans[m.head:])
		m.spans, m.head = m.spans[:n], 0
	}
	m.spans = append(m.spans, span{start, end})
}

// next returns the next piece that may leave when no match to come starts before limit: a mask,
// or the text from one position to the other. It is false when there is none.
func (m *marks) next(limit int) (from, to int, mask, ok bool) {
	from, to = m.done, limit
	if m.head < len(m.spans) && m.spans[m.head].start <= limit {
		first := m.spans[m.head]
		if m.done == first.start {
			m.done = first.end
			m.head++
			return 0, 0, true, true
		}
		to = first.start
	}
	if from >= to {
		return 0, 0, false, false
	}
	m.done = to
	return from, to, false, true
}

// shift moves all positions n to the front.
func (m *marks) shift(n int) {
	m.done -= n
	for i := range m.spans {
		m.spans[i].start -= n
		m.spans[i].end -= n
	}
}
