package jobs

import "context"

type waitHandler struct{}

func (waitHandler) Run(context.Context, *Action) (Result, error) {
	return Result{}, Permanentf("wait is not built yet")
}
