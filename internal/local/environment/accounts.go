package environment

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/domainferry/domainferry/internal/access"
	"github.com/domainferry/domainferry/internal/local/s3gateway"
	"github.com/domainferry/domainferry/internal/local/sigv4"
	"github.com/domainferry/domainferry/internal/migration"
)

// With two accounts the source domain and its bucket are of another account than the deployment and the destination. Each account is a user of
// the S3 gateway that owns its buckets, and neither is its root, for whom no policy holds. The functions have the deployment's credentials only;
// what the other account has they reach by assuming a role there.
const (
	OtherAccount = "210987654321"
	// OtherRoleARN is the role that SnapshotAccess makes in the other account, ExternalID what it wants to hear.
	OtherRoleARN = "arn:aws:iam::" + OtherAccount + ":role/domain-ferry-access"
	ExternalID   = "ferry-7"

	// A domain is passed roles of its own account only.
	otherSnapshotRole = "arn:aws:iam::" + OtherAccount + ":role/domain-ferry-snapshots"

	assumedRole = "arn:aws:sts::" + OtherAccount + ":assumed-role/domain-ferry-access/domain-ferry"
)

var (
	// other is who has assumed the role, and the owner of the source's bucket. Its name is the account's id, because the gateway compares the owner
	// that a request expects with the name.
	other = KeyPair{OtherAccount, "domain-ferry-local-other-secret"}
	// gatekeeper is the gateway's root where there are accounts.
	gatekeeper = KeyPair{"AKIDOMAINFERRYGATEWY", "domain-ferry-local-gateway-secret"}
)

// SourcePolicy is the policy that the source's bucket has before a migration between two accounts. It names its owner, because the gateway, unlike
// S3, judges that one by the policy too.
const SourcePolicy = `{
  "Version": "2012-10-17",
  "Statement": [
    {"Sid": "Owner", "Effect": "Allow", "Principal": {"AWS": ["` + OtherAccount + `"]}, "Action": ["s3:*"], "Resource": ["arn:aws:s3:::` + SourceBucket + `", "arn:aws:s3:::` + SourceBucket + `/*"]} ,
    {"Sid": "NobodyDeletes", "Effect": "Deny", "Principal": {"AWS": ["AKIDOMAINFERRYCALLER"]}, "Action": ["s3:DeleteObject"], "Resource": ["arn:aws:s3:::` + SourceBucket + `/*"]}
  ]
}`

// gatewayConfig is the gateway's, with accounts or without.
func (e *Environment) gatewayConfig(cfg Config, binary string) s3gateway.Config {
	g := s3gateway.Config{
		Binary: binary, Root: filepath.Join(e.dir, "s3"), Sidecar: filepath.Join(e.dir, "sidecar"),
		LogFile: filepath.Join(cfg.LogDir, "s3-gateway.log"), Access: Caller.ID, Secret: Caller.Secret,
	}
	if cfg.TwoAccounts {
		g.Access, g.Secret, g.IAM = gatekeeper.ID, gatekeeper.Secret, filepath.Join(e.dir, "iam")
	}
	return g
}

// makeBuckets makes the three buckets, each as its account.
func (e *Environment) makeBuckets(ctx context.Context, cfg Config) error {
	if !cfg.TwoAccounts {
		for _, bucket := range []string{SourceBucket, DestinationBucket, JournalBucket} {
			if err := e.Gateway.CreateBucket(ctx, bucket); err != nil {
				return err
			}
		}
		return nil
	}
	for _, account := range []KeyPair{Caller, other} {
		if err := e.Gateway.CreateAccount(ctx, account.ID, account.Secret); err != nil {
			return err
		}
	}
	for bucket, owner := range map[string]KeyPair{SourceBucket: other, DestinationBucket: Caller, JournalBucket: Caller} {
		if _, err := e.Gateway.As(owner.ID, owner.Secret).CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &bucket}); err != nil {
			return fmt.Errorf("create bucket %s at the S3 gateway: %w", bucket, err)
		}
		if err := e.Gateway.OpenBucket(bucket); err != nil {
			return err
		}
	}
	policy := SourcePolicy
	return e.OwnerOfSource().SetAccess(ctx, SourceBucket, access.BucketPolicy, &policy)
}

// OwnerOfSource reads and changes who may use the source's bucket, as its owner. It is of environments with two accounts.
func (e *Environment) OwnerOfSource() access.Bucket {
	return access.Bucket{Client: e.Gateway.As(other.ID, other.Secret)}
}

// CopyingAccount is an S3 client of the account that copies, past the proxy.
func (e *Environment) CopyingAccount() *s3.Client { return e.Gateway.As(Caller.ID, Caller.Secret) }

// startSTS serves AssumeRole for the one role, to the functions only.
func (e *Environment) startSTS() error {
	l, err := listen("")
	if err != nil {
		return err
	}
	v := verifier()
	server := e.serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			panic(http.ErrAbortHandler) // net/http cuts the connection
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		who, err := v.Verify(r, "sts", body)
		form, formErr := url.ParseQuery(string(body))
		w.Header().Set("Content-Type", "text/xml")
		if err != nil || formErr != nil || who != callerRole || form.Get("Action") != "AssumeRole" || form.Get("RoleArn") != OtherRoleARN || form.Get("ExternalId") != ExternalID {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>%s is not authorized to perform: sts:AssumeRole</Message></Error></ErrorResponse>", callerRole)
			return
		}
		type credentials struct {
			AccessKeyId, SecretAccessKey, SessionToken, Expiration string
		}
		type answer struct {
			XMLName xml.Name    `xml:"AssumeRoleResponse"`
			Given   credentials `xml:"AssumeRoleResult>Credentials"`
		}
		// Without a token: the gateway's accounts have none.
		_ = xml.NewEncoder(w).Encode(answer{Given: credentials{other.ID, other.Secret, "", time.Now().Add(time.Hour).UTC().Format(time.RFC3339)}})
	}))
	e.closers = append(e.closers, server.Close)
	e.stsURL = "http://" + l.Addr().String()
	return nil
}

// ofOtherAccount makes the source one of the other account.
func (s *Side) ofOtherAccount() {
	s.DomainARN = fmt.Sprintf("arn:aws:es:%s:%s:domain/source", Region, OtherAccount)
	s.access = migration.Access{RoleARN: OtherRoleARN, ExternalID: ExternalID}
}

// verifier knows who may call the domain: one of another account only who has assumed the role there, and the operator.
func (s *Side) verifier() sigv4.Verifier {
	v := verifier()
	if s.access.RoleARN != "" {
		delete(v.Credentials, Caller.ID)
		v.Credentials[other.ID] = sigv4.Credential{Secret: other.Secret, ARN: assumedRole}
	}
	return v
}

// workflow reports whether a caller of a domain is the workflow.
func workflow(principal string) bool { return principal == callerRole || principal == assumedRole }
