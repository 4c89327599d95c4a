package redact

import (
	"sync"
)

const (
	gram = 4 // bytes that the filter looks at together

	// stride is the distance between two looks of the filter. A needle has at least MinLen
	// bytes, so one of the stride grams that it begins with is always looked at.
	stride = MinLen - gram + 1

	// shallow is how many bytes of a needle may have been seen for the filter to take over:
	// they are looked at once more.
	shallow = gram - 1

	// worthwhile is how many bytes must be left for the filter to take over.
	worthwhile = 4 * MinLen
)

// node is one state of an Aho-Corasick automaton, that is one prefix of a needle. A dense table of
// transitions would take many times the memory, for the few bytes that the filter lets through.
type node struct {
	fail  int32 // the node of the longest proper suffix that is a prefix of a needle
	child int32 // the first child, or 0
	next  int32 // the next child of the same parent, or 0
	depth int32 // the length of the prefix
	match int32 // the length of the longest needle that is a suffix of the prefix, or 0
	char  byte  // the last byte of the prefix
}

// table finds needles in a text.
type table struct {
	nodes []node // nodes[0] is the root
	roots [256]int32
	// filter has one bit for each hash of a gram; set for those at the first stride offsets of
	// a needle.
	filter  []uint64
	shift   uint8
	size    int
	buffers sync.Pool // of *[]byte, for readers
}

// cursor is how far a text has been read.
type cursor struct {
	pos   int
	state int32
}

// newTable makes the table for needles of at least MinLen bytes each, sorted and all different.
func newTable(needles [][]byte) *table {
	t := &table{}
	t.grow(needles)
	t.link()
	t.fillFilter(needles)
	longest := 0
	for _, n := range needles {
		longest = max(longest, len(n))
	}
	size := max(bufferSize, 2*longest)
	t.buffers.New = func() any {
		b := make([]byte, size)
		return &b
	}
	return t
}

// grow makes the nodes of all needles.
func (t *table) grow(needles [][]byte) {
	count := 1
	var last []byte
	for _, n := range needles {
		count += len(n) - common(last, n)
		last = n
	}
	t.nodes = make([]node, 1, count)
	var path []int32 // of the last needle
	last = nil
	for _, n := range needles {
		at := common(last, n)
		first := int32(len(t.nodes))
		switch {
		case at < len(path):
			t.nodes[path[at]].next = first
		case at > 0:
			t.nodes[path[at-1]].child = first
		}
		path = path[:at]
		for depth := at; depth < len(n); depth++ {
			id := int32(len(t.nodes))
			path = append(path, id)
			t.nodes = append(t.nodes, node{char: n[depth], depth: int32(depth + 1), child: id + 1})
		}
		end := &t.nodes[len(t.nodes)-1]
		end.match, end.child = end.depth, 0
		if at == 0 {
			t.roots[n[0]] = first
		}
		last = n
	}
}

// link sets the suffix links, which needs all shorter prefixes to have theirs.
func (t *table) link() {
	queue := make([]int32, 0, len(t.nodes))
	for _, c := range t.roots {
		if c != 0 {
			queue = append(queue, c)
		}
	}
	for i := 0; i < len(queue); i++ {
		parent := t.nodes[queue[i]]
		for c := parent.child; c != 0; c = t.nodes[c].next {
			n := &t.nodes[c]
			f := t.step(parent.fail, n.char)
			if n.match == 0 {
				n.match = t.nodes[f].match
			}
			n.fail = f
			queue = append(queue, c)
		}
	}
}

func (t *table) fillFilter(needles [][]byte) {
	bits := uint8(16)
	for len(needles)*stride*32 > 1<<bits && bits < 24 {
		bits++
	}
	t.shift = 32 - bits
	t.filter = make([]uint64, 1<<bits/64)
	for _, n := range needles {
		for i := range stride {
			h := hash(n, i) >> t.shift
			t.filter[h/64] |= 1 << (h % 64)
		}
	}
}

func (t *table) wipe() {
	clear(t.nodes)
	clear(t.roots[:])
	clear(t.filter)
	t.size = 0
}

// step returns the state after one more byte.
func (t *table) step(state int32, char byte) int32 {
	for state != 0 {
		for c := t.nodes[state].child; c != 0; c = t.nodes[c].next {
			if t.nodes[c].char == char {
				return c
			}
		}
		state = t.nodes[state].fail
	}
	return t.roots[char]
}

// held returns how many bytes before the cursor a match to come may begin. At the end of a needle
// these are the needle's own, which its mask replaces at once.
func (t *table) held(c cursor) int { return int(t.nodes[c.state].depth) }

// advance moves the cursor to the end of the next match and returns the length of the longest
// needle that ends there, or to the end of the text and returns 0.
func advance[T string | []byte](t *table, text T, c *cursor) int {
	pos, state := c.pos, c.state
	for again := 0; pos < len(text); {
		depth := int(t.nodes[state].depth)
		if depth <= shallow && pos >= max(again, depth) && len(text)-pos >= worthwhile {
			pos, state = skip(t, text, pos-depth), 0
			again = pos + stride
		}
		state = t.step(state, text[pos])
		pos++
		if match := t.nodes[state].match; match != 0 {
			c.pos, c.state = pos, state
			return int(match)
		}
	}
	c.pos, c.state = pos, state
	return 0
}

// skip returns the first position at or behind pos where a needle may begin, as far as the filter
// knows. It is less than len(text).
func skip[T string | []byte](t *table, text T, pos int) int {
	filter, shift := t.filter, t.shift&31
	for pos += stride - 1; pos <= len(text)-gram; pos += stride {
		h := hash(text, pos) >> shift
		if filter[h/64]&(1<<(h%64)) != 0 {
			break
		}
	}
	return pos - (stride - 1)
}

// hash mixes the gram at pos, so that its upper bits depend on all of it.
func hash[T string | []byte](text T, pos int) uint32 {
	_ = text[pos+3]
	return (uint32(text[pos]) | uint32(text[pos+1])<<8 | uint32(text[pos+2])<<16 | uint32(text[pos+3])<<24) * 0x9E3779B1
}

// common returns the length of the common prefix.
func common(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
