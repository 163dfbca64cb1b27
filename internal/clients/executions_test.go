package clients

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sfn"

	"github.com/domainferry/domainferry/internal/fault"
)

func TestRunning(t *testing.T) {
	for _, c := range []struct {
		name, body string
		status     int
		want       bool
		fault      fault.Name
	}{
		{"runs", `{"status": "RUNNING"}`, 200, true, ""},
		{"waits to be redriven", `{"status": "PENDING_REDRIVE"}`, 200, true, ""},
		{"stopped", `{"status": "ABORTED"}`, 200, false, ""},
		{"succeeded", `{"status": "SUCCEEDED"}`, 200, false, ""},
		{"forgotten", `{"__type": "ExecutionDoesNotExist"}`, 400, false, ""},
		{"not allowed", `{"__type": "AccessDeniedException"}`, 400, false, fault.AccessDenied},
		{"too often", `{"__type": "ThrottlingException"}`, 400, false, fault.Throttled},
		{"not understood", `{"__type": "InvalidArn"}`, 400, false, fault.Unavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("X-Amz-Target") != "AWSStepFunctions.DescribeExecution" {
					t.Errorf("asked for %s", r.Header.Get("X-Amz-Target"))
				}
				w.Header().Set("Content-Type", "application/x-amz-json-1.0")
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}))
			defer server.Close()
			e := executions{sfn.New(sfn.Options{
				Region: "eu-west-1", BaseEndpoint: &server.URL, Credentials: credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "secret", ""),
				RetryMaxAttempts: 1, Retryer: aws.NopRetryer{},
			})}
			got, err := e.Running(t.Context(), "arn:aws:states:eu-west-1:111122223333:execution:migration:x")
			if got != c.want || (err != nil) != (c.fault != "") || c.fault != "" && !fault.Is(err, c.fault) {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}
