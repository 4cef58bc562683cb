package jobs

import "context"

type webhookHandler struct{}

func newWebhook(Webhook) (Handler, error) { return webhookHandler{}, nil }

func (webhookHandler) Run(context.Context, *Action) (Result, error) {
	return Result{}, Permanentf("webhook is not built yet")
}
