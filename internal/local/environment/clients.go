package environment

import (
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sfn"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/local/workload"
	"github.com/domainferry/domainferry/internal/migration"
)

func (k KeyPair) provider() aws.CredentialsProvider {
	return credentials.NewStaticCredentialsProvider(k.ID, k.Secret, "")
}

// Client is a client of the domain through its front door.
func (s *Side) Client(as KeyPair) workload.Client {
	return workload.Client{URL: s.Door.URL(), Transport: cluster.NewSigV4Transport(as.provider(), Region, "es", nil)}
}

// Endpoint is the domain as an input names it.
func (s *Side) Endpoint() migration.Endpoint {
	role := SnapshotRoleARN
	if s.access.RoleARN != "" {
		role = otherSnapshotRole
	}
	return migration.Endpoint{DomainARN: s.DomainARN, Endpoint: s.Door.URL(), Access: s.access, Repository: migration.Repository{
		Bucket: s.Bucket, BasePath: BasePath, Region: Region, RoleARN: role,
	}}
}

// Input is an execution's input that moves everything from source to destination.
func (e *Environment) Input(name, window string) map[string]any {
	return map[string]any{
		"migration": name, "source": e.Source.Endpoint(), "destination": e.Destination.Endpoint(),
		"indices": map[string]any{"include": []string{"*"}}, "downtimeWindow": window,
	}
}

// StepFunctions is the AWS SDK's client of the local API.
func (e *Environment) StepFunctions() *sfn.Client {
	return sfn.New(sfn.Options{Region: Region, Credentials: Operator.provider(), BaseEndpoint: &e.StepFunctionsURL})
}

// Journal is the deployment's journal, read without injected faults.
func (e *Environment) Journal() *journal.Store { return journal.NewStore(e.S3(), JournalBucket) }

// S3 is a client of the gateway itself.
func (e *Environment) S3() *s3.Client { return e.Gateway.Client(e.Gateway.URL()) }
