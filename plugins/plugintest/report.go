package plugintest

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"
)

// Result is one test.
type Result struct {
	Name     string        `json:"name"` // with those above it: Writer/Cycle
	Failed   bool          `json:"failed"`
	Failures []string      `json:"failures,omitempty"`
	Took     time.Duration `json:"took"`
	Log      string        `json:"log,omitempty"`
}

// Report is what Verify found.
type Report struct {
	Path        string        `json:"path"`
	Started     time.Time     `json:"started"`
	Took        time.Duration `json:"took"`
	Interrupted string        `json:"interrupted,omitempty"` // why, where it was
	Results     []Result      `json:"results"`
}

// Failed is how many tests failed.
func (r Report) Failed() int {
	n := 0
	for _, t := range r.Results {
		if t.Failed {
			n++
		}
	}
	return n
}

// OK says that every test passed and none is missing.
func (r Report) OK() bool { return r.Failed() == 0 && r.Interrupted == "" && len(r.Results) > 0 }

// suite is the JUnit form that CI servers read.
type suite struct {
	XMLName  xml.Name `xml:"testsuite"`
	Name     string   `xml:"name,attr"`
	Tests    int      `xml:"tests,attr"`
	Failures int      `xml:"failures,attr"`
	Errors   int      `xml:"errors,attr"`
	Time     string   `xml:"time,attr"`
	Stamp    string   `xml:"timestamp,attr"`
	Cases    []testCase
	Error    string `xml:"system-err,omitempty"`
}

type testCase struct {
	XMLName xml.Name `xml:"testcase"`
	Class   string   `xml:"classname,attr"`
	Name    string   `xml:"name,attr"`
	Time    string   `xml:"time,attr"`
	Failure *failure
	Out     string `xml:"system-out,omitempty"`
}

type failure struct {
	XMLName xml.Name `xml:"failure"`
	Message string   `xml:"message,attr"`
	Text    string   `xml:",chardata"`
}

// WriteJUnit writes the report as JUnit XML.
func (r Report) WriteJUnit(w io.Writer) error {
	s := suite{
		Name: "lull plugin verify " + plain(r.Path), Tests: len(r.Results), Failures: r.Failed(),
		Time: seconds(r.Took), Stamp: r.Started.UTC().Format("2006-01-02T15:04:05"), Error: plain(r.Interrupted),
	}
	if r.Interrupted != "" {
		s.Errors = 1
	}
	for _, t := range r.Results {
		c := testCase{Class: "lull.plugin", Name: t.Name, Time: seconds(t.Took), Out: plain(t.Log)}
		if t.Failed {
			text := plain(strings.Join(t.Failures, "\n"))
			first, _, _ := strings.Cut(text, "\n")
			c.Failure = &failure{Message: first, Text: text}
		}
		s.Cases = append(s.Cases, c)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(s); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }

// plain is text that XML and a terminal can show: a plugin may have written it.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r == 0xfffe || r == 0xffff {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
