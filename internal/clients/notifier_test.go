package clients

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sns"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/names"
)

func TestNotify(t *testing.T) {
	const topic = "arn:aws:sns:eu-west-1:111122223333:operators"
	for _, c := range []struct {
		name, body string
		status     int
		fault      fault.Name
	}{
		{"told", `<PublishResponse><PublishResult><MessageId>1</MessageId></PublishResult></PublishResponse>`, 200, ""},
		{"not allowed", `<ErrorResponse><Error><Code>AuthorizationError</Code></Error></ErrorResponse>`, 403, fault.AccessDenied},
		{"no such topic", `<ErrorResponse><Error><Code>NotFound</Code></Error></ErrorResponse>`, 404, fault.AccessDenied},
		{"busy", `<ErrorResponse><Error><Code>Throttled</Code></Error></ErrorResponse>`, 400, fault.Throttled},
		{"broken", `<ErrorResponse><Error><Code>InternalError</Code></Error></ErrorResponse>`, 500, fault.Unavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.FormValue("Action") != "Publish" || r.FormValue("TopicArn") != topic || r.FormValue("Subject") != "a question" || r.FormValue("Message") != "what it is" {
					t.Errorf("asked for %v", r.Form)
				}
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}))
			defer server.Close()
			n := notifier{sns.New(sns.Options{
				Region: "eu-west-1", BaseEndpoint: &server.URL, Credentials: credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "secret", ""), Retryer: aws.NopRetryer{},
			}), topic}
			err := n.notify(t.Context(), "a question", "what it is")
			if (err != nil) != (c.fault != "") || c.fault != "" && !fault.Is(err, c.fault) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestNobodyToNotify(t *testing.T) {
	t.Setenv(names.TopicVariable, "")
	if (&Clients{}).Notify() != nil {
		t.Error("without a topic there is somebody to tell")
	}
}
