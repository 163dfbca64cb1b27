package step

import (
	"context"
	"maps"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// RegisterInput names the migration.
type RegisterInput struct {
	Migration string `json:"migration"`
	Execution string `json:"execution"`
}

// RegisterOutput says what was done on each side: "registered", "unchanged".
type RegisterOutput struct {
	Repository  string `json:"repository"`
	Source      string `json:"source"`
	Destination string `json:"destination"`
}

// RegisterDomain is what register asks of a domain.
type RegisterDomain interface {
	ClusterSettingsDomain
	Repository(ctx context.Context, name string) (cluster.Repository, bool, error)
	PutRepository(ctx context.Context, name string, r cluster.Repository) error
}

// Register lets the workflow into domains with fine-grained access control where it may, registers the snapshot repository on both, read-only at
// the destination, and raises what slows its restores.
type Register struct {
	Journal *journal.Store
	Domain  func(migration.Endpoint) RegisterDomain
	Clock   Clock
	// Caller is the role with which the other steps call the domains; empty is this one's.
	Caller string
}

// Run is the state Register.
func (s Register) Run(ctx context.Context, in RegisterInput) (RegisterOutput, error) {
	j, p, err := plan(ctx, s.Journal, in.Migration, in.Execution)
	if err != nil {
		return RegisterOutput{}, err
	}
	out := RegisterOutput{Repository: p.Spec.RepositoryName()}
	l := newUndoLog(j, s.Domain, s.Clock)
	byHand, err := l.letIn(ctx, p, p.Spec.Source, p.Engines.Source, s.Caller)
	if err != nil {
		return out, err
	}
	if out.Source, err = s.register(ctx, p.Spec.Source, out.Repository, repositoryRates(p.Engines.Source, false), false); err != nil {
		return out, withMapping(err, byHand)
	}
	if byHand, err = l.letIn(ctx, p, p.Spec.Destination, p.Engines.Destination, s.Caller); err != nil {
		return out, err
	}
	if out.Destination, err = s.register(ctx, p.Spec.Destination, out.Repository, repositoryRates(p.Engines.Destination, true), true); err != nil {
		return out, withMapping(err, byHand)
	}
	return out, raise(ctx, l, p)
}

// anyRegion is the endpoint that reaches buckets of every Region; Amazon documents it for buckets in us-east-1 and in another
// Region than the domain's (snapshots.md 3.4).
const anyRegion = "s3.amazonaws.com"

func (s Register) register(ctx context.Context, e migration.Endpoint, name string, rates map[string]string, readonly bool) (string, error) {
	domain := s.Domain(e)
	want := map[string]string{"bucket": e.Repository.Bucket, "role_arn": e.Repository.RoleARN}
	if e.Repository.BasePath != "" {
		want["base_path"] = e.Repository.BasePath
	}
	if readonly {
		want["readonly"] = "true"
	}
	existing, found, err := domain.Repository(ctx, name)
	if err != nil {
		return "", err
	}
	if found {
		if same(existing, want, e.Repository.Region) {
			return "unchanged", nil
		}
		return "", fault.Newf(fault.RepositoryRefused, "register repository "+name, e.Endpoint,
			"a repository of that name exists with other settings (bucket %q, base path %q, read-only %q)",
			existing.Settings["bucket"], existing.Settings["base_path"], existing.Settings["readonly"]).
			WithHint("Choose another migration name, or delete that repository's registration (DELETE _snapshot/%s; its objects stay) if nothing uses it.", name)
	}
	maps.Copy(want, rates)
	want["region"] = e.Repository.Region
	err = domain.PutRepository(ctx, name, cluster.Repository{Type: "s3", Settings: want})
	if err == nil || fault.Retryable(err) || fault.Is(err, fault.AccessDenied) {
		return "registered", err
	}
	delete(want, "region")
	want["endpoint"] = anyRegion
	if byEndpoint := domain.PutRepository(ctx, name, cluster.Repository{Type: "s3", Settings: want}); byEndpoint != nil {
		if fault.Retryable(byEndpoint) {
			return "", byEndpoint
		}
		return "", fault.Newf(fault.RepositoryRefused, "register repository "+name, e.Endpoint, "with region %s: %w; with endpoint %s: %w", e.Repository.Region, err, anyRegion, byEndpoint)
	}
	return "registered", nil
}

// same compares what identifies a repository. Where it was reached, by region or by endpoint, is the domain's business, and
// rates that it was registered with stay: they may be the operator's.
func same(r cluster.Repository, want map[string]string, region string) bool {
	if r.Type != "s3" {
		return false
	}
	for _, k := range []string{"bucket", "base_path", "role_arn"} {
		if r.Settings[k] != want[k] {
			return false
		}
	}
	if (r.Settings["readonly"] == "true") != (want["readonly"] == "true") {
		return false
	}
	return r.Settings["region"] == region || r.Settings["region"] == "" && r.Settings["endpoint"] == anyRegion
}
