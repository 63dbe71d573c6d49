package plugintest_test

import (
	"bytes"
	"context"
	"encoding/xml"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lull-backup/lull/plugins/plugintest"
)

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// options for this binary as a plugin, over an application that is a file.
func options(t *testing.T, mode string) plugintest.Options {
	t.Helper()
	file := filepath.Join(t.TempDir(), "frozen")
	return plugintest.Options{
		Path: self(t),
		Env:  []string{modeEnv + "=" + mode, appEnv + "=" + file, "GORACE=atexit_sleep_ms=0"}, // the race detector sleeps a second at the end
		Frozen: func() bool {
			_, err := os.Stat(file)
			return err == nil
		},
		Log: slog.New(slog.DiscardHandler),
	}
}

func TestGoodPlugins(t *testing.T) {
	t.Parallel()
	t.Run("application", func(t *testing.T) { plugintest.Run(t, options(t, "good")) })
	t.Run("filesystems", func(t *testing.T) {
		o := options(t, "filesystems")
		o.Frozen = nil
		plugintest.Run(t, o)
	})
}

// Each of these plugins does one thing wrong, and the kit finds that one.
func TestBadPlugins(t *testing.T) {
	tests := []struct {
		mode string
		want string // the tests that fail; after ... more may, by timing or one after the other
		says string // among other things
	}{
		{"hello", "Handshake Verify", "no handshake"},
		{"started by hand", "StartedByHand", "it waits when it is started by hand"},
		{"newer lull", "NewerLull", "neither answers nor ends"},
		{"noisy", "Quiet", "lines"},
		{"absent", "Cycle Verify", "give the kit a guest"},
		{"never looks", "Absent", "prepare must find out"},
		{"slow", "Budget", "its budget is 100ms"},
		{"always held", "Writer/ThawWithoutFreeze Writer/ThawAfterAbort LateThaw", "there was none"},
		{"trusts its document", "OddRequests", "post-restore"},
		{"dies in complete", "UnknownFields CompleteWithoutFreeze...", "it died"},
		{"forgets", "Restart ...", "still frozen after abort after a restart"},
		{"no thaw", "Writer/ThawWithoutFreeze Writer/ThawAfterAbort LateThaw", "there was none"},
	}
	t.Cleanup(func() { goleak.VerifyNone(t) })
	for _, test := range tests {
		t.Run(test.mode, func(t *testing.T) {
			t.Parallel()
			o := options(t, test.mode)
			if test.mode == "no thaw" {
				o.Frozen = nil
			}
			if test.mode == "started by hand" || test.mode == "newer lull" {
				o.Limit = 3 * time.Second
			}
			report := plugintest.Verify(t.Context(), o, nil)
			var failed []string
			said := ""
			for _, r := range report.Results {
				if r.Failed {
					failed = append(failed, r.Name)
					said += strings.Join(r.Failures, "\n") + "\n"
				}
			}
			got := strings.Join(failed, " ")
			if head, more := strings.CutSuffix(test.want, "..."); got != test.want && !(more && strings.HasPrefix(got, head)) {
				t.Errorf("failed: %s\nwant:   %s\n%s", got, test.want, said)
			}
			if !strings.Contains(said, test.says) {
				t.Errorf("it says %q, want %q", said, test.says)
			}
		})
	}
}

func TestJUnit(t *testing.T) {
	report := plugintest.Verify(t.Context(), options(t, "absent"), nil)
	var out bytes.Buffer
	if err := report.WriteJUnit(&out); err != nil {
		t.Fatal(err)
	}
	var suite struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Cases    []struct {
			Name    string `xml:"name,attr"`
			Failure *struct {
				Message string `xml:"message,attr"`
			} `xml:"failure"`
		} `xml:"testcase"`
	}
	if err := xml.Unmarshal(out.Bytes(), &suite); err != nil {
		t.Fatalf("%v in\n%s", err, out.String())
	}
	if suite.Tests != len(report.Results) || suite.Failures != 2 || len(suite.Cases) != suite.Tests {
		t.Errorf("%d tests, %d failures, %d cases in\n%s", suite.Tests, suite.Failures, len(suite.Cases), out.String())
	}
	for _, c := range suite.Cases {
		if c.Name == "Cycle" && (c.Failure == nil || !strings.Contains(c.Failure.Message, "not in this guest")) {
			t.Errorf("Cycle: %+v", c.Failure)
		}
	}
}

func TestVerifyIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	report := plugintest.Verify(ctx, options(t, "good"), func(plugintest.Result) { cancel() })
	if report.OK() || report.Interrupted == "" || len(report.Results) > 3 {
		t.Errorf("interrupted %q after %d results", report.Interrupted, len(report.Results))
	}
}
