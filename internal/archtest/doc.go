// Package archtest has no code of its own. Its tests read the source of the
// whole module and hold what no single package can: which package may import
// which (docs/design.md section 3, the same table), where a few dangerous things
// may stand, and the sizes and names that keep the tree readable.
package archtest
