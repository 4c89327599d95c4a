package redact

import "unsafe"

// Render shows the needles of one pattern to the tests.
func Render(p Pattern) [][]byte { return render(p) }

// Bytes returns how much memory the tables of s take.
func (s *Set) Bytes() int {
	t := s.open()
	return cap(t.nodes)*int(unsafe.Sizeof(node{})) + int(unsafe.Sizeof(*t)) + len(t.filter)*8
}

// Held reports whether anything of the secrets is left in the tables of s.
func (s *Set) Held() bool {
	t := s.open()
	for _, n := range t.nodes {
		if n != (node{}) {
			return true
		}
	}
	return t.roots != [256]int32{}
}
