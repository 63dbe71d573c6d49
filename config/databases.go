package config

import "gopkg.in/yaml.v3"

// Databases are what the writers of databases are told. Files are the guest's.
type Databases struct {
	PostgreSQLServiceFile string   // empty: peer authentication
	PostgreSQLOnly        []string // data directories; empty: all
	MariaDBDefaultsFile   string   // empty: socket authentication
	MariaDBOnly           []string
}

func (p *parser) databases(n *yaml.Node, line int) (d Databases) {
	s := p.section(n, line, "databases", PostgreSQLWriter, MariaDBWriter)
	if n, ok := s.get(PostgreSQLWriter); ok {
		s := p.section(n, s.line(PostgreSQLWriter), s.of(PostgreSQLWriter), "service_file", "only")
		d.PostgreSQLServiceFile, d.PostgreSQLOnly = s.path("service_file", "/etc/lull/pg_service.conf"), s.only()
	}
	if n, ok := s.get(MariaDBWriter); ok {
		s := p.section(n, s.line(MariaDBWriter), s.of(MariaDBWriter), "defaults_file", "only")
		d.MariaDBDefaultsFile, d.MariaDBOnly = s.path("defaults_file", "/etc/lull/my.cnf"), s.only()
	}
	return d
}

// only reads which data directories a writer looks after.
func (s section) only() []string {
	return s.paths("only", "list data directories of the guests, such as [/var/lib/mysql], or remove it for all")
}
