package cluster

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// credentialsError is a request that was not sent because there were no credentials to sign it with.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return "no AWS credentials to sign with: " + e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

type sigV4 struct {
	credentials     aws.CredentialsProvider
	region, service string
	base            http.RoundTripper
	signer          *v4.Signer
	now             func() time.Time
}

// NewSigV4Transport returns a transport that signs each request with AWS Signature Version 4 for service ("es" for Amazon
// OpenSearch Service) in region, payload hash included, and sends it by base (nil: http.DefaultTransport). Credentials are
// asked for at every request, so that rotated ones are used; bodies are buffered.
func NewSigV4Transport(credentials aws.CredentialsProvider, region, service string, base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &sigV4{credentials: credentials, region: region, service: service, base: base, signer: v4.NewSigner(), now: time.Now}
}

func (t *sigV4) RoundTrip(req *http.Request) (*http.Response, error) {
	var payload []byte
	if req.Body != nil {
		var err error
		payload, err = io.ReadAll(req.Body)
		req.Body.Close()
		if err != nil {
			return nil, fmt.Errorf("buffer the request body: %w", err)
		}
	}
	credentials, err := t.credentials.Retrieve(req.Context())
	if err != nil {
		return nil, &credentialsError{err}
	}
	signed := req.Clone(req.Context())
	signed.Body, signed.GetBody, signed.ContentLength = nil, nil, 0
	if len(payload) > 0 {
		signed.Body = io.NopCloser(bytes.NewReader(payload))
		signed.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(payload)), nil }
		signed.ContentLength = int64(len(payload))
	}
	sum := sha256.Sum256(payload)
	hash := hex.EncodeToString(sum[:])
	signed.Header.Set("X-Amz-Content-Sha256", hash)
	if err := t.signer.SignHTTP(req.Context(), credentials, signed, hash, t.service, t.region, t.now().UTC()); err != nil {
		return nil, &credentialsError{err}
	}
	return t.base.RoundTrip(signed)
}
