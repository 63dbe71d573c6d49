package config

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

const endpointExample = "https://s3.example.net"

func (p *parser) repository(name string, n *yaml.Node, line int) Repository {
	what := fmt.Sprintf("repository %s", quote(name))
	s := p.section(n, line, what, "dir", "s3", "passphrase_file", "key", "key_file", "deduplicate", "padding", "compression", "object_lock", "maintenance")
	r := Repository{Name: name, Dir: s.path("dir", "/srv/backup")}
	_, dir := s.get("dir")
	store, s3 := s.get("s3")
	switch {
	case dir && s3:
		p.problem(max(s.line("dir"), s.line("s3")), what+" has both dir and s3", "keep one, and write a second repository for the other")
	case !dir && !s3 && s.ok:
		p.problem(line, what+" has no place", "add dir: /srv/backup, or s3: {endpoint: "+endpointExample+", bucket: NAME}")
	}
	if s3 {
		r.S3 = p.s3(store, s.line("s3"), "s3 of "+what)
	}
	if lock, ok := s.get("object_lock"); ok {
		r.ObjectLock = p.objectLock(lock, s.line("object_lock"), s.of("object_lock"))
		if dir && !s3 {
			p.problem(s.line("object_lock"), what+" is a folder, which has no object lock", "remove object_lock, or use a bucket with s3")
		}
	}
	r.Maintenance = p.maintenance(s)
	r.PassphraseFile = s.file("passphrase_file", "/etc/lull/passphrase", true)
	s.keys(&r)
	r.Compression = s.compression()
	return r
}

// file reads the path of a file that Load looks at.
func (s section) file(key, example string, secret bool) string {
	path := s.path(key, example)
	if path != "" {
		s.p.named = append(s.p.named, named{line: s.line(key), path: path, what: s.of(key), secret: secret})
	}
	return path
}

func (p *parser) s3(n *yaml.Node, line int, what string) *S3 {
	s := p.section(n, line, what, "endpoint", "bucket", "prefix", "region", "ca_file", "credentials_file")
	s.need("endpoint", "add endpoint: "+endpointExample)
	s.need("bucket", "add bucket: NAME")
	return &S3{
		Endpoint:        s.endpoint(),
		Bucket:          s.bucket(),
		Prefix:          s.prefix(),
		Region:          s.region(),
		CAFile:          s.file("ca_file", "/etc/ssl/certs/store.pem", false),
		CredentialsFile: s.file("credentials_file", "/etc/lull/credentials", true),
	}
}

// endpoint takes scheme, host and port. A wrong one is not shown: it may hold a
// password.
func (s section) endpoint() string {
	v, line := s.text("endpoint")
	if v == "" {
		return ""
	}
	u, err := url.Parse(v)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Opaque != "":
		s.p.problem(line, s.of("endpoint")+" is no address of a store", "write its scheme, host and port, such as "+endpointExample)
	case u.User != nil:
		s.p.problem(line, s.of("endpoint")+" holds a user or password", "remove it, and name a file with credentials_file")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		s.p.problem(line, s.of("endpoint")+" holds more than scheme, host and port", "write such as "+endpointExample+", and use bucket and prefix")
	default:
		if u.Scheme == "http" {
			s.p.warn(line, s.of("endpoint")+" is not encrypted, so who listens learns sizes and names, and may change what is sent", "use https://")
		}
		return u.Scheme + "://" + u.Host
	}
	return ""
}

func (s section) bucket() string {
	v, line := s.text("bucket")
	if v == "" {
		return ""
	}
	if !regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`).MatchString(v) || strings.Contains(v, "..") {
		s.p.problem(line, fmt.Sprintf("%s is %s, no name of a bucket", s.of("bucket"), quote(v)), "use 3 to 63 of a to z, 0 to 9, dot and dash; a path inside the bucket belongs under prefix")
		return ""
	}
	return v
}

// prefix ends with a slash in the result, so that no other prefix can begin
// with it.
func (s section) prefix() string {
	v, line := s.text("prefix")
	if v == "" {
		return ""
	}
	v = strings.TrimSuffix(v, "/")
	parts := strings.Split(v, "/")
	if slices.Contains(parts, "") || slices.Contains(parts, ".") || slices.Contains(parts, "..") || len(v) > 512 {
		s.p.problem(line, fmt.Sprintf("%s is %s", s.of("prefix"), quote(v)), "write names with single slashes between them, such as lull/")
		return ""
	}
	return v + "/"
}

func (s section) region() string {
	v, line := s.text("region")
	if v != "" && (len(v) > MaxName || !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`).MatchString(v)) {
		s.p.problem(line, fmt.Sprintf("%s is %s", s.of("region"), quote(v)), "write one word, such as eu-1")
		return ""
	}
	return v
}
