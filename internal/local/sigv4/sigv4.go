// Package sigv4 verifies AWS Signature Version 4 on incoming requests, as the services in front of a domain, of Step Functions and
// of S3 do. It is written from the specification and shares no code with the SDK's signer, which its tests sign with.
//
// Not supported, and refused with an error that says so: signatures in the query string (presigned URLs), chunk-signed bodies
// (STREAMING-AWS4-...) and Signature Version 4A.
//
// Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	algorithm       = "AWS4-HMAC-SHA256"
	unsignedPayload = "UNSIGNED-PAYLOAD"
	dateForm        = "20060102T150405Z"
)

// Credential is what an access key id stands for. A request must carry SessionToken exactly when it is not empty.
type Credential struct {
	Secret       string
	SessionToken string
	ARN          string
}

// Verifier knows the credentials by access key id. Region, when not empty, is the only one accepted in a signature's scope. Now
// defaults to time.Now.
type Verifier struct {
	Credentials map[string]Credential
	Region      string
	Now         func() time.Time
}

// Error is a refusal. Code and Message are the service's words; Status is the HTTP status that the service answers with.
type Error struct {
	Status  int
	Code    string
	Message string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Verify checks that r, whose body is body, was signed for service ("es", "states", "s3", ...) with one of the credentials, and
// returns the ARN of the caller. Every error is an *Error.
//
// Clocks may differ by 5 minutes, for s3 by 15. The x-amz-content-sha256 header must be there for s3 and aoss and must match the
// body when it is there; UNSIGNED-PAYLOAD is accepted for s3 only. It does not read r.Body.
func (v Verifier) Verify(r *http.Request, service string, body []byte) (arn string, err error) {
	if r.URL.Query().Has("X-Amz-Signature") {
		return "", refusal(service, "IncompleteSignatureException", "this local service does not support signatures in the query string; sign the headers")
	}
	header := r.Header.Get("Authorization")
	if header == "" {
		return "", anonymous(r, service)
	}
	auth, err := parseAuthorization(header, service)
	if err != nil {
		return "", err
	}
	credential, known := v.Credentials[auth.accessKey]
	token := r.Header.Get("X-Amz-Security-Token")
	if !known || subtle.ConstantTimeCompare([]byte(token), []byte(credential.SessionToken)) != 1 {
		return "", unknownToken(service)
	}
	if err := v.checkScope(auth, service); err != nil {
		return "", err
	}
	signed, err := v.checkTime(r, auth, service)
	if err != nil {
		return "", err
	}
	payloadHash, err := checkPayload(r, service, body)
	if err != nil {
		return "", err
	}
	canonical, err := canonicalRequest(r, service, auth.signedHeaders, payloadHash)
	if err != nil {
		return "", err
	}
	scope := strings.Join([]string{auth.date, auth.region, auth.service, "aws4_request"}, "/")
	toSign := strings.Join([]string{algorithm, signed, scope, hexHash([]byte(canonical))}, "\n")
	key := []byte("AWS4" + credential.Secret)
	for _, part := range []string{auth.date, auth.region, auth.service, "aws4_request"} {
		key = mac(key, part)
	}
	if subtle.ConstantTimeCompare([]byte(hex.EncodeToString(mac(key, toSign))), []byte(auth.signature)) != 1 {
		return "", refusal(service, "InvalidSignatureException", "The request signature we calculated does not match the signature you provided. "+
			"Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")
	}
	return credential.ARN, nil
}

type authorization struct {
	accessKey, date, region, service string
	signedHeaders                    []string
	signature                        string
}

func parseAuthorization(header, service string) (authorization, error) {
	scheme, rest, _ := strings.Cut(header, " ")
	if scheme != algorithm {
		// Basic authentication at an endpoint that wants SigV4 ends here; the service hashes the header so as not to show it.
		sum := sha256.Sum256([]byte(header))
		return authorization{}, refusal(service, "IncompleteSignatureException", "Invalid key=value pair (missing equal-sign) in Authorization header "+
			"(hashed with SHA-256 and encoded with Base64): '%s'.", base64.StdEncoding.EncodeToString(sum[:]))
	}
	fields := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		fields[name] = value
	}
	var missing []string
	for _, name := range []string{"Credential", "Signature", "SignedHeaders"} {
		if fields[name] == "" {
			missing = append(missing, fmt.Sprintf("Authorization header requires '%s' parameter.", name))
		}
	}
	if missing != nil {
		return authorization{}, refusal(service, "IncompleteSignatureException", "%s", strings.Join(missing, " "))
	}
	// An access key id may hold slashes at some providers; the scope's four parts are the last ones.
	scope := strings.Split(fields["Credential"], "/")
	if len(scope) < 5 || scope[len(scope)-1] != "aws4_request" {
		return authorization{}, refusal(service, "IncompleteSignatureException", "Credential must have at least 5 slash-delimited elements, "+
			"the last of which is 'aws4_request', got %d elements.", len(scope))
	}
	n := len(scope)
	return authorization{
		accessKey: strings.Join(scope[:n-4], "/"), date: scope[n-4], region: scope[n-3], service: scope[n-2],
		signedHeaders: strings.Split(fields["SignedHeaders"], ";"), signature: fields["Signature"],
	}, nil
}

func (v Verifier) checkScope(auth authorization, service string) error {
	if auth.service != service {
		return refusal(service, "InvalidSignatureException", "Credential should be scoped to correct service: '%s'.", service)
	}
	if v.Region != "" && auth.region != v.Region {
		return refusal(service, "InvalidSignatureException", "Credential should be scoped to a valid region.")
	}
	if !slices.Contains(auth.signedHeaders, "host") {
		return refusal(service, "InvalidSignatureException", "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")
	}
	return nil
}

// checkTime returns the time of the signature in its basic form.
func (v Verifier) checkTime(r *http.Request, auth authorization, service string) (string, error) {
	text := r.Header.Get("X-Amz-Date")
	signed, err := time.Parse(dateForm, text)
	if err != nil {
		if signed, err = http.ParseTime(r.Header.Get("Date")); err != nil {
			return "", refusal(service, "IncompleteSignatureException",
				"Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
		}
		text = signed.UTC().Format(dateForm)
	}
	if text[:8] != auth.date {
		return "", refusal(service, "InvalidSignatureException", "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "+
			"'%s' != '%s', from '%s'.", auth.date, text[:8], text)
	}
	now := time.Now
	if v.Now != nil {
		now = v.Now
	}
	server, limit := now().UTC(), 5*time.Minute
	if service == "s3" {
		limit = 15 * time.Minute
	}
	switch early, late := server.Add(-limit), server.Add(limit); {
	case service == "s3" && (signed.Before(early) || signed.After(late)):
		return "", &Error{http.StatusForbidden, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."}
	case signed.Before(early):
		return "", refusal(service, "InvalidSignatureException", "Signature expired: %s is now earlier than %s (%s - 5 min.)",
			text, early.Format(dateForm), server.Format(dateForm))
	case signed.After(late):
		return "", refusal(service, "InvalidSignatureException", "Signature not yet current: %s is still later than %s (%s + 5 min.)",
			text, late.Format(dateForm), server.Format(dateForm))
	}
	return text, nil
}

// checkPayload returns the payload hash that goes into the canonical request.
func checkPayload(r *http.Request, service string, body []byte) (string, error) {
	claimed, computed := r.Header.Get("X-Amz-Content-Sha256"), hexHash(body)
	switch {
	case claimed == "" && (service == "s3" || service == "aoss"):
		return "", &Error{http.StatusBadRequest, "InvalidRequest", "Missing required header for this request: x-amz-content-sha256"}
	case claimed == "":
		return computed, nil
	case claimed == unsignedPayload && service == "s3":
		return claimed, nil
	case strings.HasPrefix(claimed, "STREAMING-"):
		return "", &Error{http.StatusNotImplemented, "NotImplemented", "this local service does not support chunk-signed bodies (" + claimed + ")"}
	case subtle.ConstantTimeCompare([]byte(claimed), []byte(computed)) == 1:
		return claimed, nil
	case service == "s3":
		return "", &Error{http.StatusBadRequest, "XAmzContentSHA256Mismatch",
			"The provided 'x-amz-content-sha256' header does not match what was computed."}
	}
	return computed, nil // as the service: it signs what it got, so that the signatures differ
}

func canonicalRequest(r *http.Request, service string, signedHeaders []string, payloadHash string) (string, error) {
	path := r.URL.EscapedPath()
	if service == "s3" {
		path = r.URL.Path // S3 encodes once, the others encode what is on the wire again
	}
	if path == "" {
		path = "/"
	}
	query, err := canonicalQuery(r.URL.RawQuery)
	if err != nil {
		return "", refusal(service, "InvalidSignatureException", "the query string cannot be decoded: %s", err)
	}
	var b strings.Builder
	for _, line := range []string{r.Method, encode(path, true), query} {
		b.WriteString(line + "\n")
	}
	for _, name := range signedHeaders {
		var values []string
		switch {
		case name == "host":
			values = []string{r.Host}
		case name == "content-length" && r.ContentLength >= 0:
			values = []string{strconv.FormatInt(r.ContentLength, 10)}
		default:
			values = slices.Clone(r.Header.Values(name))
		}
		for i, value := range values {
			values[i] = strings.Join(strings.Fields(value), " ")
		}
		b.WriteString(name + ":" + strings.Join(values, ",") + "\n")
	}
	b.WriteString("\n" + strings.Join(signedHeaders, ";") + "\n" + payloadHash)
	return b.String(), nil
}

func canonicalQuery(raw string) (string, error) {
	values := map[string][]string{}
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		if err != nil {
			return "", err
		}
		if value, err = url.QueryUnescape(value); err != nil {
			return "", err
		}
		values[encode(name, false)] = append(values[encode(name, false)], encode(value, false))
	}
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		for _, value := range slices.Sorted(slices.Values(values[name])) {
			pairs = append(pairs, name+"="+value)
		}
	}
	return strings.Join(pairs, "&"), nil
}

// encode percent-encodes every byte outside RFC 3986's unreserved set; slashes too, unless they are kept.
func encode(text string, keepSlash bool) string {
	var b strings.Builder
	for i := range len(text) {
		switch c := text[i]; {
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9', strings.IndexByte("-._~", c) >= 0, c == '/' && keepSlash:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func hexHash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// refusal picks the status and, for s3, the code that the service uses: JSON services answer 400, a domain and S3 answer 403.
func refusal(service, code, format string, args ...any) *Error {
	status := http.StatusBadRequest
	switch service {
	case "es", "aoss":
		status = http.StatusForbidden
	case "s3":
		if code == "InvalidSignatureException" {
			status, code = http.StatusForbidden, "SignatureDoesNotMatch"
		} else {
			code = "AuthorizationHeaderMalformed"
		}
	}
	return &Error{status, code, fmt.Sprintf(format, args...)}
}

func unknownToken(service string) *Error {
	if service == "s3" {
		return &Error{http.StatusForbidden, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."}
	}
	return refusal(service, "UnrecognizedClientException", "The security token included in the request is invalid.")
}

// anonymous is the answer to a request without a signature.
func anonymous(r *http.Request, service string) *Error {
	switch service {
	case "es", "aoss":
		action := "es:ESHttp" + r.Method[:1] + strings.ToLower(r.Method[1:])
		return &Error{http.StatusForbidden, "AccessDeniedException", fmt.Sprintf(
			"User: anonymous is not authorized to perform: %s because no resource-based policy allows the %s action", action, action)}
	case "s3":
		return &Error{http.StatusForbidden, "AccessDenied", "Access Denied"}
	}
	return refusal(service, "MissingAuthenticationTokenException", "Missing Authentication Token")
}
