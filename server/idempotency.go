package server

// The header Idempotency-Key: what is sent twice is done once. A key is reserved in
// a transaction of its own before the request runs, and gets its answer after it;
// who dies between the two blocks the key for a minute.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/db/dbq"
)

const (
	maxKey         = 255
	reserveSeconds = 60
	maxKeptAnswer  = 1 << 20 // bytes; a larger answer is not kept
	mostRequest    = 32 << 20
)

type idempotencyKey struct{}

// keyOf is the idempotency key of the request at work, "" without one.
func keyOf(ctx context.Context) string {
	key, _ := ctx.Value(idempotencyKey{}).(string)
	return key
}

// idempotent honours the header for what changes something with an organization's key.
func (s *Server) idempotent(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("Idempotency-Key")
		who := caller(r.Context())
		if key == "" || r.Method != http.MethodPost && r.Method != http.MethodPatch || who.organization == nil {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Idempotency-Key", key)
		if len(key) > maxKey {
			problemf(http.StatusBadRequest, "the Idempotency-Key is longer than %d characters: use a shorter one", maxKey).write(w, r)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, mostRequest))
		if err != nil {
			problemf(http.StatusRequestEntityTooLarge, "the body is too large: send less at once").write(w, r)
			return
		}
		sum := sha256.Sum256(append([]byte(r.Method+" "+r.URL.RequestURI()+"\n"), body...))
		replayed, err := s.reserve(r.Context(), w, *who.organization, key, sum[:])
		if err != nil {
			if p, ok := errors.AsType[*problem](s.toProblem(r.Context(), err)); ok {
				if p.status == http.StatusConflict {
					w.Header().Set("Retry-After", "1")
				}
				p.write(w, r)
			}
			return
		}
		if replayed {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		kept := &keeper{ResponseWriter: w, status: http.StatusOK}
		done := false
		defer func() {
			if !done { // a panic: the client may try again
				s.release(r.Context(), *who.organization, key, sum[:])
			}
		}()
		next.ServeHTTP(kept, r.WithContext(context.WithValue(r.Context(), idempotencyKey{}, key)))
		done = true
		s.keep(r.Context(), *who.organization, key, sum[:], kept)
	})
}

// reserve takes the key for this request, or replays the answer that it has.
func (s *Server) reserve(ctx context.Context, w http.ResponseWriter, organization, key string, sum []byte) (replayed bool, err error) {
	_, err = s.q.ReserveKey(ctx, dbq.ReserveKeyParams{OrganizationID: organization, Key: key, RequestHash: sum, Seconds: reserveSeconds})
	if err == nil {
		return false, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return false, err
	}
	k, err := s.q.FindKey(ctx, dbq.FindKeyParams{OrganizationID: organization, Key: key})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, conflict("a request with this Idempotency-Key has just failed: send it again")
	case err != nil:
		return false, err
	case !bytes.Equal(k.RequestHash, sum):
		return false, problemf(http.StatusUnprocessableEntity, "this Idempotency-Key was used for another request: use a new one")
	case k.Status == nil:
		return false, conflict("a request with this Idempotency-Key is at work: send it again in a moment")
	}
	w.Header().Set("Idempotency-Replay", "true")
	if k.ContentType != nil && *k.ContentType != "" {
		w.Header().Set("Content-Type", *k.ContentType)
	}
	w.WriteHeader(int(*k.Status))
	_, _ = w.Write(k.Body)
	return true, nil
}

// keep keeps the answer for replays. What the client is to try again is not kept.
func (s *Server) keep(ctx context.Context, organization, key string, sum []byte, k *keeper) {
	ctx = context.WithoutCancel(ctx)
	if k.status >= 500 || k.status == http.StatusConflict || k.status == http.StatusTooManyRequests || k.body.Len() > maxKeptAnswer {
		s.release(ctx, organization, key, sum)
		return
	}
	status, kind := int32(k.status), k.Header().Get("Content-Type")
	err := s.q.KeepAnswer(ctx, dbq.KeepAnswerParams{
		OrganizationID: organization, Key: key, RequestHash: sum, Status: &status, ContentType: &kind, Body: k.body.Bytes(),
	})
	if err != nil {
		s.log.WarnContext(ctx, "an answer is not kept for its idempotency key", "error", err)
	}
}

func (s *Server) release(ctx context.Context, organization, key string, sum []byte) {
	err := s.q.ReleaseKey(context.WithoutCancel(ctx), dbq.ReleaseKeyParams{OrganizationID: organization, Key: key, RequestHash: sum})
	if err != nil {
		s.log.WarnContext(ctx, "an idempotency key stays reserved for a minute", "error", err)
	}
}

// keeper keeps what is sent.
type keeper struct {
	http.ResponseWriter

	status int
	body   bytes.Buffer
}

func (k *keeper) WriteHeader(status int) {
	k.status = status
	k.ResponseWriter.WriteHeader(status)
}

func (k *keeper) Write(b []byte) (int, error) {
	if k.body.Len() <= maxKeptAnswer {
		k.body.Write(b)
	}
	return k.ResponseWriter.Write(b)
}
