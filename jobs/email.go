package jobs

import "context"

type emailHandler struct{}

func newEmail(SMTP) (Handler, error) { return emailHandler{}, nil }

func (emailHandler) Run(context.Context, *Action) (Result, error) {
	return Result{}, Permanentf("email is not built yet")
}
