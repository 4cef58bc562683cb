// Command sdk-go does one round of the official Go SDK, novu-go, against a server;
// an answer that the SDK refuses ends it. It is a module of its own, so that nobody
// who embeds pgautomate inherits the SDK.
//
//	NOVU_URL=http://127.0.0.1:8080 NOVU_KEY=… go run .
package main

import (
	"context"
	"log"
	"os"
	"time"

	novugo "github.com/novuhq/novu-go"
	"github.com/novuhq/novu-go/models/components"
	"github.com/novuhq/novu-go/models/operations"
	"github.com/novuhq/novu-go/retry"
)

func must[T any](v T, err error) T {
	if err != nil {
		log.Output(2, err.Error()) //nolint:errcheck // it ends here
		os.Exit(1)
	}
	return v
}

func p[T any](v T) *T { return &v }

func main() {
	log.SetFlags(log.Lshortfile)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n := novugo.New(novugo.WithServerURL(os.Getenv("NOVU_URL")), novugo.WithSecurity(os.Getenv("NOVU_KEY")),
		novugo.WithRetryConfig(retry.Config{Strategy: "none"}))

	must(n.Subscribers.Create(ctx, components.CreateSubscriberRequestDto{SubscriberID: "go-1", Email: p("go@example.com")}, nil, nil))
	must(n.Subscribers.Retrieve(ctx, "go-1", nil))
	must(n.Subscribers.Search(ctx, operations.SubscribersControllerSearchSubscribersRequest{}))
	must(n.Topics.Create(ctx, components.CreateUpdateTopicRequestDto{Key: "go-topic"}, nil, nil))
	must(n.Topics.List(ctx, operations.TopicsControllerListTopicsRequest{}))

	body := "hello {{payload.name}}"
	must(n.Workflows.Create(ctx, components.CreateWorkflowDto{
		Name: "Go workflow", WorkflowID: "go-workflow", Active: p(true),
		Steps: []components.Steps{
			components.CreateStepsInApp(components.InAppStepUpsertDto{
				Name: "In", Type: components.StepTypeEnumInApp, ControlValues: p(components.CreateInAppStepUpsertDtoControlValuesInAppControlDto(components.InAppControlDto{Body: &body})),
			}),
		},
	}, nil))
	must(n.Workflows.Get(ctx, "go-workflow", nil, nil))
	must(n.Workflows.List(ctx, operations.WorkflowControllerSearchWorkflowsRequest{}))
	must(n.Workflows.Patch(ctx, "go-workflow", components.PatchWorkflowDto{Active: p(true)}, nil))

	one := must(n.Trigger(ctx, components.TriggerEventRequestDto{WorkflowID: "go-workflow", To: components.CreateToStr("go-1"), Payload: map[string]any{"name": "Go"}}, nil))
	if one.TriggerEventResponseDto.Status != components.StatusProcessed {
		log.Fatalf("status %v", one.TriggerEventResponseDto.Status)
	}
	many := must(n.TriggerBulk(ctx, components.BulkTriggerEventDto{Events: []components.TriggerEventRequestDto{
		{WorkflowID: "go-workflow", To: components.CreateToStr("go-1")}, {WorkflowID: "nope", To: components.CreateToStr("go-1")},
	}}, nil))
	if len(many.TriggerEventResponseDtos) != 2 || many.TriggerEventResponseDtos[1].Status != components.StatusError {
		log.Fatalf("bulk: %+v", many.TriggerEventResponseDtos)
	}
	must(n.TriggerBroadcast(ctx, components.TriggerEventToAllRequestDto{Name: "go-workflow", Payload: map[string]any{}}, nil))
	if gone := must(n.Cancel(ctx, "nothing", nil)); *gone.Boolean {
		log.Fatal("what isn't there was canceled")
	}
	tx := *one.TriggerEventResponseDto.TransactionID
	for {
		list := must(n.Messages.Retrieve(ctx, operations.MessagesControllerGetMessagesRequest{TransactionID: []string{tx}}))
		if len(list.MessagesResponseDto.Data) == 1 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	must(n.Topics.Subscriptions.Create(ctx, "go-topic", components.CreateTopicSubscriptionsRequestDto{SubscriberIds: []string{"go-1"}}, nil))
	must(n.Topics.Subscriptions.List(ctx, operations.TopicsControllerListTopicSubscriptionsRequest{TopicKey: "go-topic"}))
	must(n.Topics.Get(ctx, "go-topic", nil))
	must(n.Trigger(ctx, components.TriggerEventRequestDto{WorkflowID: "go-workflow", To: components.CreateToTopicPayloadDto(components.TopicPayloadDto{
		TopicKey: "go-topic", Type: components.TriggerRecipientsTypeEnumTopic,
	})}, nil))

	// What waits is canceled.
	must(n.Workflows.Create(ctx, components.CreateWorkflowDto{
		Name: "Go late", WorkflowID: "go-late", Active: p(true),
		Steps: []components.Steps{
			components.CreateStepsDigest(components.DigestStepUpsertDto{
				Name: "D", Type: components.StepTypeEnumDigest, ControlValues: p(components.CreateDigestStepUpsertDtoControlValuesMapOfAny(map[string]any{"type": "regular", "amount": 1, "unit": "hours"})),
			}),
			components.CreateStepsInApp(components.InAppStepUpsertDto{
				Name: "In", Type: components.StepTypeEnumInApp, ControlValues: p(components.CreateInAppStepUpsertDtoControlValuesInAppControlDto(components.InAppControlDto{Body: &body})),
			}),
		},
	}, nil))
	late := must(n.Trigger(ctx, components.TriggerEventRequestDto{WorkflowID: "go-late", To: components.CreateToStr("go-1")}, nil))
	if gone := must(n.Cancel(ctx, *late.TriggerEventResponseDto.TransactionID, nil)); !*gone.Boolean {
		log.Fatal("what waits was not canceled")
	}

	feed := must(n.Subscribers.Notifications.Feed(ctx, operations.SubscribersV1ControllerGetNotificationsFeedRequest{SubscriberID: "go-1"}))
	if len(feed.FeedResponseDto.Data) == 0 {
		log.Fatal("the feed is empty")
	}
	must(n.Subscribers.Messages.MarkAllAs(ctx, "go-1", components.MessageMarkAsRequestDto{
		MessageID: components.CreateMessageIDStr(feed.FeedResponseDto.Data[0].ID), MarkAs: components.MessageMarkAsRequestDtoMarkAsRead,
	}, nil))
	must(n.Subscribers.Preferences.List(ctx, "go-1", nil, nil))

	list := must(n.Notifications.List(ctx, operations.NotificationsControllerListNotificationsRequest{TransactionID: &tx}))
	must(n.Notifications.Retrieve(ctx, *list.ActivitiesResponseDto.Data[0].ID, nil))
	if nine := os.Getenv("NOVU_STATUSES"); nine != "" {
		seen := map[string]bool{}
		for _, job := range must(n.Notifications.List(ctx, operations.NotificationsControllerListNotificationsRequest{TransactionID: &nine})).ActivitiesResponseDto.Data[0].Jobs {
			seen[job.Status] = true
		}
		if len(seen) != 9 {
			log.Fatalf("statuses: %v", seen)
		}
	}
	missed := must(n.Trigger(ctx, components.TriggerEventRequestDto{WorkflowID: "go-late", To: components.CreateToTopicPayloadDto(components.TopicPayloadDto{
		TopicKey: "go-nothing", Type: components.TriggerRecipientsTypeEnumTopic,
	})}, nil))
	for {
		list := must(n.Notifications.List(ctx, operations.NotificationsControllerListNotificationsRequest{TransactionID: missed.TriggerEventResponseDto.TransactionID}))
		if data := list.ActivitiesResponseDto.Data; len(data) == 1 {
			if data[0].Jobs[0].Status != "failed" {
				log.Fatalf("a missing topic: %+v", data[0].Jobs[0])
			}
			break
		}
		time.Sleep(50 * time.Millisecond)
	}

	integration := must(n.Integrations.Create(ctx, components.CreateIntegrationRequestDto{ProviderID: "slack", Channel: components.CreateIntegrationRequestDtoChannelChat}, nil))
	id := *integration.IntegrationResponseDto.ID
	must(n.Integrations.Update(ctx, id, components.UpdateIntegrationRequestDto{Name: p("Chat")}, nil))
	must(n.Integrations.SetAsPrimary(ctx, id, nil))
	if auto := must(n.Integrations.IntegrationsControllerAutoConfigureIntegration(ctx, id, nil)); auto.AutoConfigureIntegrationResponseDto.Success {
		log.Fatal("an integration configured itself")
	}
	must(n.Integrations.List(ctx, nil))
	must(n.Integrations.ListActive(ctx, nil))
	must(n.Integrations.Delete(ctx, id, nil))
	environment := must(n.Environments.List(ctx, nil)).EnvironmentResponseDtos[0]
	must(n.Environments.Update(ctx, environment.ID, components.UpdateEnvironmentRequestDto{Name: p("Go")}, nil))
	must(n.Environments.GetTags(ctx, environment.ID, nil))
	if _, err := n.Environments.Create(ctx, components.CreateEnvironmentRequestDto{Name: "Staging", Color: "#ffffff"}, nil); err == nil {
		log.Fatal("an environment was made")
	}
	must(n.Workflows.Delete(ctx, "go-workflow", nil))
	must(n.Topics.Delete(ctx, "go-topic", nil))
	must(n.Subscribers.Delete(ctx, "go-1", nil))
	log.Print("round done")
}
