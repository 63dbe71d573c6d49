package main

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"

	"github.com/spf13/cobra"
)

// pluginTemplate is the project that `lull plugin init` writes: each file ends in
// .tmpl, so that the go command does not take it for its own.
//
//go:embed template
var pluginTemplate embed.FS

func (in *invocation) pluginInitCommand() *cobra.Command {
	var p project
	cmd := &cobra.Command{
		Use:   "init NAME",
		Short: "Begin a writer plugin: write a Go project that works",
		Long: "Write a Go project for a writer into the folder NAME: a writer, and a test that holds\n" +
			"it to the contract without any VM.",
		Example: "  lull plugin init redis --module example.org/redis-writer\n  cd redis && go mod tidy && go test",
		Args:    argCount(1, 1, "the plugin's name"),
		RunE: in.run(func(_ *cobra.Command, args []string) error {
			p.Name = args[0]
			return in.initPlugin(p)
		}),
	}
	cmd.Flags().StringVar(&p.Module, "module", "", "Go `PATH` of the module (default example.com/NAME)")
	cmd.Flags().StringVar(&p.Source, "source", "", "build against the checkout of lull in `DIR`, without the network")
	return cmd
}

// project is what the template is filled with.
type project struct {
	Name    string
	Module  string
	Source  string // of lull; empty: released
	Version string // of lull; empty: go mod tidy finds one
	Require string // what lull's go.mod requires, with Source
	Go      string // version of the language, no older than lull's
}

// Files of the project.
const (
	projectMode = 0o644
	goVersion   = "1.26"
)

func (in *invocation) initPlugin(p project) error {
	if !regexp.MustCompile(`^[a-z][a-z0-9-]{0,63}$`).MatchString(p.Name) {
		return withHint(usagef("plugin init %s: no name of a writer", p.Name), "use a to z, 0 to 9 and dash, and begin with a letter")
	}
	p.Go = goVersion
	if p.Module == "" {
		p.Module = "example.com/" + p.Name
	}
	if !regexp.MustCompile(`^[A-Za-z0-9._~/-]+$`).MatchString(p.Module) {
		return usagef("plugin init: --module %s: no path of a Go module", p.Module)
	}
	if regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+$`).MatchString(in.Version) {
		p.Version = in.Version
	}
	sums, err := p.fromSource()
	if err != nil {
		return fmt.Errorf("plugin init: %w", err)
	}
	if err := p.write(p.Name, sums); err != nil {
		return fmt.Errorf("plugin init: %w", err)
	}
	next := "cd " + p.Name + " && go mod tidy && go test"
	if p.Source != "" {
		next = "cd " + p.Name + " && go test"
	}
	in.note("wrote %s; next: %s", p.Name, next)
	return nil
}

// fromSource takes over what a checkout requires, so that nothing must be fetched
// that is not there.
func (p *project) fromSource() (sums []byte, err error) {
	if p.Source == "" {
		return nil, nil
	}
	if p.Source, err = filepath.Abs(p.Source); err != nil {
		return nil, err
	}
	mod, err := os.ReadFile(filepath.Join(p.Source, "go.mod"))
	if err != nil {
		return nil, withHint(plainPath(err), "name the folder of lull's source with --source")
	}
	if !bytes.HasPrefix(mod, []byte("module "+lullModule+"\n")) {
		return nil, withHint(fmt.Errorf("%s is not lull's source", p.Source), "name its folder with --source")
	}
	if m := regexp.MustCompile(`(?m)^go (\S+)$`).FindSubmatch(mod); m != nil {
		p.Go = string(m[1])
	}
	for _, block := range regexp.MustCompile(`(?ms)^require \(.*?^\)`).FindAll(mod, -1) {
		p.Require += string(block) + "\n\n"
	}
	sums, err = os.ReadFile(filepath.Join(p.Source, "go.sum"))
	return sums, err
}

const lullModule = "github.com/lull-backup/lull"

// write makes the folder and all files, or nothing.
func (p *project) write(dir string, sums []byte) (err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return plainPath(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	files, err := template.ParseFS(pluginTemplate, "template/*.tmpl")
	if err != nil {
		return err
	}
	names, err := fs.Glob(pluginTemplate, "template/*.tmpl")
	if err != nil {
		return err
	}
	for _, name := range names {
		var out bytes.Buffer
		if err := files.ExecuteTemplate(&out, path.Base(name), p); err != nil {
			return err
		}
		target := filepath.Join(dir, strings.TrimSuffix(path.Base(name), ".tmpl"))
		if err := os.WriteFile(target, out.Bytes(), projectMode); err != nil {
			return plainPath(err)
		}
	}
	if sums == nil {
		return nil
	}
	return os.WriteFile(filepath.Join(dir, "go.sum"), sums, projectMode)
}
