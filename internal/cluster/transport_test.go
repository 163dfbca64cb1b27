package cluster

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/domainferry/domainferry/internal/fault"
)

// checkSignature computes the signature of r as the service does, from AWS's description of Signature Version 4.
func checkSignature(r *http.Request, body []byte, secret, region, service string) error {
	_, fields, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	part := map[string]string{}
	for _, f := range strings.Split(fields, ", ") {
		k, v, _ := strings.Cut(f, "=")
		part[k] = v
	}
	sum := sha256.Sum256(body)
	if r.Header.Get("X-Amz-Content-Sha256") != hex.EncodeToString(sum[:]) {
		return errors.New("the payload hash is not that of the body")
	}
	var headers strings.Builder
	for _, h := range strings.Split(part["SignedHeaders"], ";") {
		v := r.Header.Get(h)
		switch h {
		case "host":
			v = r.Host
		case "content-length":
			v = fmt.Sprint(r.ContentLength)
		}
		fmt.Fprintf(&headers, "%s:%s\n", h, v)
	}
	// Every service but S3 encodes the sent path once more.
	path := strings.NewReplacer(",", "%2C", "%", "%25").Replace(r.URL.EscapedPath())
	canonical := strings.Join([]string{r.Method, path, r.URL.RawQuery, headers.String(), part["SignedHeaders"], hex.EncodeToString(sum[:])}, "\n")
	date := r.Header.Get("X-Amz-Date")
	scope := date[:8] + "/" + region + "/" + service + "/aws4_request"
	hashed := sha256.Sum256([]byte(canonical))
	mac := func(key []byte, text string) []byte {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	key := mac(mac(mac(mac([]byte("AWS4"+secret), date[:8]), region), service), "aws4_request")
	if want := hex.EncodeToString(mac(key, "AWS4-HMAC-SHA256\n"+date+"\n"+scope+"\n"+hex.EncodeToString(hashed[:]))); want != part["Signature"] {
		return fmt.Errorf("signature %s, want %s for\n%s", part["Signature"], want, canonical)
	}
	return nil
}

func TestSigV4(t *testing.T) {
	asked := 0
	provider := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		asked++
		return aws.Credentials{AccessKeyID: fmt.Sprintf("AKID%d", asked), SecretAccessKey: fmt.Sprintf("secret%d", asked), SessionToken: "token"}, nil
	})
	requests := 0
	server := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		body, _ := io.ReadAll(r.Body)
		if err := checkSignature(r, body, fmt.Sprintf("secret%d", requests), "eu-central-1", "es"); err != nil {
			t.Errorf("%s %s: %v", r.Method, r.RequestURI, err)
		}
		if r.Header.Get("X-Amz-Security-Token") != "token" || !strings.Contains(r.Header.Get("Authorization"), fmt.Sprintf("AKID%d/", requests)) {
			t.Errorf("%v", r.Header)
		}
		if r.Method == "PUT" && string(body) != `{"index.blocks.write":true}` {
			t.Errorf("body %q", body)
		}
		if r.Method == "GET" {
			io.WriteString(w, `{}`)
			return
		}
		io.WriteString(w, ack)
	}))
	c := New(server.Endpoint(), NewSigV4Transport(provider, "eu-central-1", "es", nil))
	if err := c.UpdateSettings(t.Context(), map[string]any{"index.blocks.write": true}, "a", "b.c-d_é"); err != nil {
		t.Error(err)
	}
	if err := c.Open(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if _, err := c.Recoveries(t.Context(), "a", "b"); err != nil {
		t.Error(err)
	}
	if requests != 3 || asked != 3 {
		t.Errorf("%d requests, credentials asked for %d times", requests, asked)
	}
}

func TestNoCredentials(t *testing.T) {
	provider := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{SecretAccessKey: "s3cret"}, errors.New("no role")
	})
	c := New("http://127.0.0.1:1", NewSigV4Transport(provider, "eu-central-1", "es", nil))
	err := c.DeleteIndex(t.Context(), "a")
	if !fault.Is(err, fault.AccessDenied) || !strings.Contains(err.Error(), "no role") || strings.Contains(err.Error(), "s3cret") {
		t.Error(err)
	}
}
