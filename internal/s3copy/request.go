package s3copy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/domainferry/domainferry/internal/fault"
)

// Each request is tried this often. The pauses (decorrelated jitter) come to about half a minute; the SDK's own retryer is not
// used because its quota, shared by all requests of a client, fails most calls of a throttled copy.
const (
	maxAttempts    = 10
	firstPause     = 50 * time.Millisecond
	longestPause   = 8 * time.Second
	longestWait    = 5 * time.Minute // in a copy, being refused is waiting for one's turn, and no failure for so long
	requestTimeout = 5 * time.Minute // a request that hangs longer is cut and repeated
)

// session counts the requests of one call of a Copier.
type session struct {
	*Copier
	sourceLister, destinationLister Lister
	requests                        [classes]atomic.Int64
	governor                        *governor // paces copies; nil outside CopyRange
}

func (c *Copier) newSession() *session {
	return &session{Copier: c, sourceLister: listerOf(c.Source), destinationLister: listerOf(c.Destination)}
}

// used returns the requests made so far.
func (s *session) used() Usage {
	return Usage{
		List: s.requests[list].Load(), Read: s.requests[read].Load(), Copy: s.requests[copyWhole].Load(),
		Part: s.requests[copyPart].Load(), Write: s.requests[write].Load(), Delete: s.requests[remove].Load(),
	}
}

// operation describes a request: for its fault, its price and its pace.
type operation struct {
	verb       string // "copy object"
	target     string // s3 address
	permission string // what is missing when it is denied
	class      class
	size       int64 // bytes that a copy moves
}

// request makes one S3 request, repeating it while S3 is throttling or failing. The error is a fault, or ctx's error when ctx
// ended.
func request[T any](ctx context.Context, s *session, op operation, call func(context.Context) (T, error)) (T, error) {
	began, pause := time.Now(), firstPause
	for attempt, tries := 1, 1; ; tries++ {
		result, err := once(ctx, s, op, call)
		if err == nil {
			return result, nil
		}
		if ctx.Err() != nil {
			return result, fmt.Errorf("%s on %s: %w", op.verb, op.target, ctx.Err())
		}
		f := classify(op, err)
		waiting := f.Name == fault.Throttled && op.class.paced() && s.governor != nil && time.Since(began) < longestWait
		if !fault.Retryable(f) || attempt >= maxAttempts && !waiting {
			if tries > 1 {
				f.Err = fmt.Errorf("%w (tried %d times)", f.Err, tries)
			}
			return result, f
		}
		longest := longestPause
		if waiting {
			longest = time.Second // the governor holds the rest back
		} else {
			attempt++
		}
		pause = min(longest, firstPause+rand.N(3*pause-firstPause+1))
		select {
		case <-ctx.Done():
			return result, fmt.Errorf("%s on %s: %w", op.verb, op.target, ctx.Err())
		case <-time.After(pause):
		}
	}
}

func once[T any](ctx context.Context, s *session, op operation, call func(context.Context) (T, error)) (result T, err error) {
	paced := s.governor != nil && op.class.paced()
	if paced {
		if err := s.governor.pace(ctx); err != nil {
			return result, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	s.requests[op.class].Add(1)
	started := time.Now()
	result, err = call(ctx)
	if paced {
		s.governor.answered(op.size, time.Since(started), signalOf(op, err))
	}
	return result, err
}

// signalOf tells the governor what an answer means.
func signalOf(op operation, err error) signal {
	switch {
	case err == nil:
		return fine
	case fault.Is(classify(op, err), fault.Throttled):
		return throttled
	case fault.Is(classify(op, err), fault.Unavailable):
		return failing
	}
	return refused
}

// noRetry leaves repeating to request.
func noRetry(o *s3.Options) { o.Retryer = aws.NopRetryer{} }

// classify turns an S3 error into a fault. The cause is rebuilt from code and message: an SDK error's own text is long and holds
// request ids only.
func classify(op operation, err error) *fault.Error {
	status := 0
	if response, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		status = response.HTTPStatusCode()
	}
	code, cause := "", err
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		code = api.ErrorCode()
		cause = fmt.Errorf("%s: %s", code, strings.TrimSpace(api.ErrorMessage()))
		if api.ErrorMessage() == "" {
			cause = errors.New(code)
		}
	}
	made := func(name fault.Name) *fault.Error {
		f := fault.New(name, op.verb, op.target, cause)
		f.Status = status
		return f
	}
	switch code {
	case "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "ServiceUnavailable",
		"503 SlowDown", "KMS.ThrottlingException":
		return made(fault.Throttled)
	case "InternalError", "RequestTimeout", "OperationAborted", "BadGateway", "GatewayTimeout", "IncompleteBody":
		return made(fault.Unavailable)
	case "NoSuchBucket":
		return made(fault.CopyFailed).WithHint("The bucket does not exist, or its name is misspelt in the input. Correct it and start a new execution.")
	case "NoSuchUpload":
		return made(fault.CopyFailed).WithHint("Something aborts multipart uploads in the destination bucket, a lifecycle rule perhaps. Stop it, then redrive.")
	case "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		return made(fault.CopyFailed).WithHint("The bucket lies in another Region than the input says. Correct the Region and start a new execution.")
	case "InvalidObjectState":
		return made(fault.CopyFailed).WithHint(archiveHint)
	case "PreconditionFailed":
		return made(fault.RepositoryCorrupt).WithHint("The object changed after it was listed: something else writes into the source repository. Stop it, then start a new execution.")
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "RequestTimeTooSkewed", "AccountProblem":
		return made(fault.AccessDenied).WithHint("S3 does not accept the caller's credentials. Check the Lambda's role, and the clock of the machine, then redrive.")
	}
	switch {
	case strings.HasPrefix(code, "KMS."):
		return made(fault.AccessDenied).WithHint("The caller needs kms:Decrypt on the key of the source bucket, and kms:GenerateDataKey and kms:Decrypt on the destination's; the AWS managed key aws/s3 does not work across accounts.")
	case status == http.StatusForbidden || code == "AccessDenied" || code == "AllAccessDisabled":
		return made(fault.AccessDenied).WithHint("The caller role lacks %s, or a bucket policy or a KMS key policy denies it. Allow it, then redrive.", op.permission)
	case status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests:
		return made(fault.Throttled)
	case status >= 500 || status == http.StatusRequestTimeout:
		return made(fault.Unavailable)
	case status == 0 && code == "":
		// Nothing was answered: refused, cut or timed out.
		return made(fault.Unavailable).WithHint("S3 did not answer. Check the route from the Lambdas' subnets to S3; a gateway VPC endpoint does not carry copies between Regions.")
	}
	return made(fault.CopyFailed)
}

// notFound reports whether err is S3's answer that the key is not there.
func notFound(err error) bool {
	f, ok := fault.As(err)
	if !ok {
		return false
	}
	return f.Status == http.StatusNotFound && !strings.HasPrefix(f.Err.Error(), "NoSuchBucket") && !strings.HasPrefix(f.Err.Error(), "NoSuchUpload")
}

// copySource is the value of x-amz-copy-source, which the SDK sends as it is: everything but unreserved characters and slashes
// must be percent-encoded.
func copySource(from space, key string) string {
	parts := strings.Split(from.bucket+"/"+from.full(key), "/")
	for i, p := range parts {
		parts[i] = strings.ReplaceAll(url.QueryEscape(p), "+", "%20")
	}
	return strings.Join(parts, "/")
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// read fetches a whole small object with at most limit bytes. found is false when it does not exist.
func (s *session) read(ctx context.Context, api S3, at Location, relative string, limit int64) (content []byte, found bool, err error) {
	op := operation{verb: "read object", target: at.address(relative), permission: "s3:GetObject on " + at.address(relative), class: read}
	content, err = request(ctx, s, op, func(ctx context.Context) ([]byte, error) {
		out, err := api.GetObject(ctx, &s3.GetObjectInput{Bucket: &at.Bucket, Key: aws.String(at.key(relative))}, noRetry)
		if err != nil {
			return nil, err
		}
		defer out.Body.Close()
		content, err := io.ReadAll(io.LimitReader(out.Body, limit+1))
		if whole := aws.ToInt64(out.ContentLength); err == nil && whole > int64(len(content)) && whole <= limit {
			err = errCut // the SDK does not always notice
		}
		return content, err
	})
	if notFound(err) {
		return nil, false, nil
	}
	if err == nil && int64(len(content)) > limit {
		err = fault.Newf(fault.RepositoryCorrupt, op.verb, op.target, "it is larger than %d bytes", limit)
	}
	return content, err == nil, err
}
