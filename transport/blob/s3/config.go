package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/lull-backup/lull/transport/blob"
)

// Config says where a store is and how to get in.
type Config struct {
	Endpoint string // https://host[:port], or http:// for a store nearby
	Bucket   string
	Prefix   string // of all objects; a slash is added where it has none at its end
	Region   string // empty: the bucket's own on AWS, us-east-1 elsewhere
	CAFile   string // PEM certificates to trust beside the system's
	// CredentialsFile is a file like ~/.aws/credentials. Empty: the usual chain
	// of AWS_ACCESS_KEY_ID and its like, ~/.aws/credentials, the instance's role.
	CredentialsFile string
}

const defaultRegion = "us-east-1"

// Open checks the configuration and the credentials. It does not ask the store.
func Open(ctx context.Context, c Config) (*Store, error) {
	s, err := open(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("open S3 store: %w", err)
	}
	return s, nil
}

func open(ctx context.Context, c Config) (*Store, error) {
	u, err := parseEndpoint(c.Endpoint)
	if err != nil {
		return nil, err
	}
	if err := s3utils.CheckValidBucketName(c.Bucket); err != nil {
		return nil, fmt.Errorf("bucket %q: %w", c.Bucket, err)
	}
	prefix, err := cleanPrefix(c.Prefix)
	if err != nil {
		return nil, err
	}
	roots, err := loadRoots(c.CAFile)
	if err != nil {
		return nil, err
	}
	creds, err := findCredentials(ctx, c.CredentialsFile)
	if err != nil {
		return nil, err
	}
	region := c.Region
	if region == "" && !s3utils.IsAmazonEndpoint(*u) {
		region = defaultRegion // else the library asks, for which a key may lack the right
	}
	s := &Store{
		bucket: c.Bucket, prefix: prefix, secure: u.Scheme == "https", stall: stallLimit, sum: checksum,
		name: fmt.Sprintf("%s/%s/%s", strings.TrimSuffix(c.Endpoint, "/"), c.Bucket, prefix),
	}
	s.transport = s.newTransport(roots)
	s.client, err = minio.New(u.Host, &minio.Options{
		Creds: creds, Secure: s.secure, Transport: s.transport, Region: region,
		MaxRetries: 1,
	})
	if err != nil {
		return nil, err
	}
	s.client.SetAppInfo("lull", "1")
	return s, nil
}

func parseEndpoint(endpoint string) (*url.URL, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, errors.New("endpoint is no URL: want https://host[:port]") // err would show what may be a secret
	}
	switch {
	case u.User != nil:
		return nil, errors.New("endpoint has a user name in it: put credentials into credentials_file")
	case u.Scheme != "https" && u.Scheme != "http", u.Host == "",
		u.Path != "" && u.Path != "/", u.RawQuery != "", u.Fragment != "":
		return nil, fmt.Errorf("endpoint %q: want https://host[:port]", endpoint)
	}
	return u, nil
}

func cleanPrefix(p string) (string, error) {
	if p == "" {
		return "", nil
	}
	p = strings.TrimSuffix(p, "/")
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." || part == ".." {
			return "", fmt.Errorf("prefix %q: want folders like backup/lull", p)
		}
	}
	return p + "/", nil
}

func loadRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read ca_file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a system without certificates trusts the file's alone
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file %s: no PEM certificate in it", file)
	}
	return pool, nil
}

// findCredentials fails when there are none: the library would try without.
func findCredentials(ctx context.Context, file string) (*credentials.Credentials, error) {
	var creds *credentials.Credentials
	if file != "" {
		creds = credentials.NewFileAWSCredentials(file, "")
	} else {
		creds = credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{},
		})
	}
	client := &http.Client{Timeout: 5 * time.Second} // the instance's role is next door, or nowhere
	defer client.CloseIdleConnections()
	value, err := creds.GetWithContext(&credentials.CredContext{Context: ctx, Client: client})
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil || value.AccessKeyID == "" || value.SecretAccessKey == "" {
		where, hint := "", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or credentials_file"
		if file != "" {
			where, hint = " in "+file, "write it like ~/.aws/credentials, with a [default] section"
		}
		return nil, blob.WithHint(fmt.Errorf("%w: no credentials%s", blob.ErrDenied, where), hint)
	}
	return creds, nil
}

func tlsConfig(roots *x509.CertPool) *tls.Config {
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}
