package custody

import (
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// pageFiles are the parts of the page. Everything in them is ours; nothing of a report is put in text.
//
//go:embed page
var pageFiles embed.FS

// pageScripts are the files of the page's one script, in order: a name stands after those it is made
// from.
var pageScripts = []string{
	"base.js", "inflate.js", "data.js", "words.js", "filter.js", "marks.js", "axis.js", "lanes.js", "draw.js",
	"timeline.js", "overview.js", "input.js", "steps.js", "panel.js", "rail.js", "table.js", "main.js",
}

// WriteHTML writes r as one HTML page that needs nothing else: no network, no other file. It shows the
// sessions as lanes of a timeline, with all that the report holds to look at and to filter.
//
// Every string of a report may have been chosen by an agent. They stand in the page as compressed
// base64 only, and the page's own policy (CSP) runs no script and applies no style but its own, loads
// nothing, and refuses to make markup from text. An error is w's, or a report that JSON cannot hold.
func WriteHTML(w io.Writer, r *Report) error {
	frame, err := pageFrame()
	if err != nil {
		return fmt.Errorf("make the page: %w", err)
	}
	before, after, _ := strings.Cut(frame, "{{data}}")
	if _, err := io.WriteString(w, before); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	if err := writePageData(w, r); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	if _, err := io.WriteString(w, after); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}

// pageFrame returns the page with a "{{data}}" where its data belongs.
func pageFrame() (string, error) {
	html, err := pageFiles.ReadFile("page/page.html")
	if err != nil {
		return "", err
	}
	css, err := pageFiles.ReadFile("page/page.css")
	if err != nil {
		return "", err
	}
	var js strings.Builder
	js.WriteString("\"use strict\";(() => {\n")
	for _, name := range pageScripts {
		text, err := pageFiles.ReadFile("page/" + name)
		if err != nil {
			return "", err
		}
		js.Write(text)
	}
	js.WriteString("})();\n")
	return strings.NewReplacer(
		"{{css}}", string(css),
		"{{css-hash}}", cspHash(string(css)),
		"{{js}}", js.String(),
		"{{js-hash}}", cspHash(js.String()),
	).Replace(string(html)), nil
}

// cspHash returns the source expression of an inline element with that text, CSP level 3 section 2.3.1.
func cspHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// writePageData writes r as the page's scripts read it: JSON, gzip, base64.
func writePageData(w io.Writer, r *Report) error {
	text := base64.NewEncoder(base64.StdEncoding, w)
	zip := gzip.NewWriter(text)
	if err := json.NewEncoder(zip).Encode(newPageData(r)); err != nil {
		return err
	}
	if err := zip.Close(); err != nil {
		return err
	}
	return text.Close()
}
