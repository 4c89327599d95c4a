package main

import (
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

// The types below are what of SARIF 2.1.0 (OASIS, section 3) is used here.
type sarifLog struct {
	Schema  string     `json:"$schema"`
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool       sarifTool     `json:"tool"`
	ColumnKind string        `json:"columnKind"`
	Results    []sarifResult `json:"results"`
}

type sarifTool struct {
	Driver sarifDriver `json:"driver"`
}

type sarifDriver struct {
	Name    string      `json:"name"`
	Version string      `json:"version,omitempty"`
	Rules   []sarifRule `json:"rules"`
}

type sarifRule struct {
	ID               string       `json:"id"`
	ShortDescription sarifText    `json:"shortDescription"`
	Default          sarifDefault `json:"defaultConfiguration"`
}

type sarifDefault struct {
	Level string `json:"level"`
}

type sarifText struct {
	Text string `json:"text"`
}

type sarifResult struct {
	RuleID    string          `json:"ruleId"`
	RuleIndex int             `json:"ruleIndex"`
	Level     string          `json:"level"`
	Message   sarifText       `json:"message"`
	Locations []sarifLocation `json:"locations"`
}

type sarifLocation struct {
	Physical sarifPhysical `json:"physicalLocation"`
}

type sarifPhysical struct {
	Artifact sarifArtifact `json:"artifactLocation"`
	Region   sarifRegion   `json:"region"`
}

type sarifArtifact struct {
	URI string `json:"uri"`
}

type sarifRegion struct {
	StartLine   int `json:"startLine"`
	StartColumn int `json:"startColumn"`
}

var sarifRules = []sarifRule{
	{"policy-mistake", sarifText{"The policy does not load"}, sarifDefault{levelError}},
	{"policy-warning", sarifText{"The policy loads, and this is worth a look"}, sarifDefault{levelWarning}},
	{"policy-test", sarifText{"A test of the policy fails"}, sarifDefault{levelError}},
}

// newSARIF returns findings as code review takes them.
func newSARIF(found []finding) sarifLog {
	run := sarifRun{
		Tool:       sarifTool{sarifDriver{Name: "sidekey", Version: version, Rules: sarifRules}},
		ColumnKind: "unicodeCodePoints",
		Results:    []sarifResult{},
	}
	for _, f := range found {
		rule := 0
		switch {
		case f.test:
			rule = 2
		case f.Level == levelWarning:
			rule = 1
		}
		text := f.Msg
		if f.Path != "" && !f.test {
			text = f.Path + ": " + text
		}
		if f.Hint != "" {
			text += " (" + f.Hint + ")"
		}
		run.Results = append(run.Results, sarifResult{sarifRules[rule].ID, rule, f.Level, sarifText{text}, []sarifLocation{sarifPlace(f.Where)}})
	}
	return sarifLog{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []sarifRun{run}}
}

// sarifPlace returns "file:line:column" as a location. A file without a place is its first character.
func sarifPlace(where string) sarifLocation {
	file, region := where, sarifRegion{1, 1}
	parts := strings.Split(where, ":")
	if n := len(parts); n >= 3 {
		line, err1 := strconv.Atoi(parts[n-2])
		column, err2 := strconv.Atoi(parts[n-1])
		if err1 == nil && err2 == nil && line > 0 && column > 0 {
			file, region = strings.Join(parts[:n-2], ":"), sarifRegion{line, column}
		}
	}
	uri := url.URL{Path: filepath.ToSlash(file)}
	return sarifLocation{sarifPhysical{sarifArtifact{uri.String()}, region}}
}
