// Package clients makes the clients of a Lambda from its environment: AWS credentials and Region from the usual variables, the
// journal bucket from JOURNAL_BUCKET.
package clients

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/domainferry/domainferry/internal/access"
	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/names"
	"github.com/domainferry/domainferry/internal/replay"
	"github.com/domainferry/domainferry/internal/repository"
	"github.com/domainferry/domainferry/internal/s3copy"
)

// Clients makes clients that share credentials and connections.
type Clients struct {
	aws       aws.Config
	transport *http.Transport
	Journal   *journal.Store

	mu      sync.Mutex
	assumed map[migration.Access]aws.CredentialsProvider
}

// FromEnvironment reads the environment. The error names the variable that is missing.
func FromEnvironment(ctx context.Context) (*Clients, error) {
	bucket := os.Getenv(names.JournalBucketVariable)
	if bucket == "" {
		return nil, fmt.Errorf("environment variable %s is not set; it names the bucket of the journal", names.JournalBucketVariable)
	}
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("load the AWS configuration: %w", err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 256
	transport.ResponseHeaderTimeout = 60 * time.Second
	c := &Clients{aws: cfg, transport: transport}
	c.Journal = journal.NewStore(c.S3(cfg.Region), bucket).Asking(executions{sfn.NewFromConfig(cfg)})
	return c, nil
}

// Domain returns the client of a domain, signing for the domain's Region: as the role that the input names for its account, or as the
// function's own.
func (c *Clients) Domain(e migration.Endpoint) *cluster.Client {
	return cluster.New(e.Endpoint, cluster.NewSigV4Transport(c.credentials(e.Access), e.Region(), "es", c.transport))
}

// Bucket returns who changes the access to the bucket of an endpoint, as the same role. The bucket must be of that role's account.
func (c *Clients) Bucket(e migration.Endpoint) access.Bucket {
	client := c.S3(e.Repository.Region)
	if e.Access.RoleARN == "" {
		return access.Bucket{Client: client}
	}
	options := client.Options()
	options.Credentials = c.credentials(e.Access)
	b := access.Bucket{Client: s3.New(options)}
	if parts := strings.Split(e.Access.RoleARN, ":"); len(parts) > 4 {
		b.Owner = parts[4]
	}
	return b
}

// Copying is the principal of the function's role that copies; empty when the environment does not say.
func Copying() string { return os.Getenv(names.CopierRoleVariable) }

// Calling is the role with which the functions call the domains; empty when the environment does not say.
func Calling() string { return os.Getenv(names.CallerRoleVariable) }

// credentials are the function's own, or those of a role that it assumes, kept until shortly before they expire.
func (c *Clients) credentials(a migration.Access) aws.CredentialsProvider {
	if a.RoleARN == "" {
		return c.aws.Credentials
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.assumed[a]; ok {
		return p
	}
	provider := aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(c.aws), a.RoleARN, func(o *stscreds.AssumeRoleOptions) {
		o.RoleSessionName = "domain-ferry"
		if a.ExternalID != "" {
			o.ExternalID = &a.ExternalID
		}
	}))
	if c.assumed == nil {
		c.assumed = map[migration.Access]aws.CredentialsProvider{}
	}
	c.assumed[a] = provider
	return provider
}

// S3 returns an S3 client for a Region. Its retries take from no shared quota: with the SDK's, a burst of SlowDown answers makes
// calls fail that a moment later would succeed (s3-copy.md 2.1).
func (c *Clients) S3(region string) *s3.Client {
	return s3.NewFromConfig(c.aws, func(o *s3.Options) {
		o.Region = region
		o.HTTPClient = &http.Client{Transport: c.transport}
		o.Retryer = retry.NewStandard(func(r *retry.StandardOptions) { r.RateLimiter, r.MaxAttempts = ratelimit.None, 6 })
		o.DisableLogOutputChecksumValidationSkipped = true // journal objects are JSON; a missing checksum is not worth a log line each
		// An endpoint of its own (AWS_ENDPOINT_URL_S3) is a gateway on one machine, which has no host name for each bucket.
		o.UsePathStyle = o.BaseEndpoint != nil
	})
}

// Replayer returns the replay from one domain to the other.
func (c *Clients) Replayer(source, destination migration.Endpoint) *replay.Replayer {
	return &replay.Replayer{Source: c.Domain(source), Destination: c.Domain(destination)}
}

// Notify returns how the operator is told that an answer is waited for; nil when the environment names no topic.
func (c *Clients) Notify() func(ctx context.Context, subject, message string) error {
	topic := os.Getenv(names.TopicVariable)
	if topic == "" {
		return nil
	}
	return notifier{sns.NewFromConfig(c.aws), topic}.notify
}

// Copier returns the copy engine between two repositories' buckets; copies are asked of the destination's Region.
func (c *Clients) Copier(source, destination migration.Repository) *s3copy.Copier {
	return &s3copy.Copier{Source: c.S3(source.Region), Destination: c.S3(destination.Region)}
}

// Blobs returns the reader of a repository's small objects.
func (c *Clients) Blobs(r migration.Repository) repository.BlobReader {
	return blobs{c.S3(r.Region), r}
}

type blobs struct {
	client *s3.Client
	at     migration.Repository
}

// Get implements repository.BlobReader. A root document may be larger than the others.
func (b blobs) Get(ctx context.Context, key string) ([]byte, error) {
	limit := int64(repository.MaxBlobSize)
	if repository.Classify(key) == repository.RootIndex {
		limit = repository.MaxRootSize
	}
	full := path.Join(b.at.BasePath, key)
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.at.Bucket, Key: &full})
	if err != nil {
		return nil, fmt.Errorf("s3://%s/%s: %w", b.at.Bucket, full, err)
	}
	defer out.Body.Close()
	content, err := io.ReadAll(io.LimitReader(out.Body, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	if err != nil {
		return nil, fmt.Errorf("s3://%s/%s: %w", b.at.Bucket, full, err)
	}
	return content, nil
}
