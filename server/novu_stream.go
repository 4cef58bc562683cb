package server

// New in-app messages as server-sent events: one for each message of a subscriber,
// as soon as it is there. Postgres tells all processes of new ones (NOTIFY), so it
// doesn't matter which of them wrote it; what is sent is read from the table, so that
// a notice that got lost costs time and no message.

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/db/dbq"
)

const (
	// streamPing is how often a line is sent when there is nothing to say; then the
	// table is looked at, too.
	streamPing = 15 * time.Second
	// streamSettles is how long a message may take from its number to its commit: so
	// long a stream looks for lower numbers than it has sent.
	streamSettles = time.Minute
	streamMost    = 100 // messages of one look
	// streamLine bounds how long one line may take to the client.
	streamLine = 30 * time.Second
)

func (s *Server) registerStream(mux *http.ServeMux) {
	s.novu(mux, wire{
		method: http.MethodGet, path: "/v1/subscribers/{subscriberId}/notifications/stream", id: "feed-stream", tag: "inbox",
		summary: "New in-app messages, as server-sent events: `message`, with an inbox item; Last-Event-ID goes on behind one", stream: stream,
	})
}

func stream(c *call, rw http.ResponseWriter) error {
	sub, err := c.feedOf(http.StatusNotFound)
	if err != nil {
		return err
	}
	f := follower{c: c, sub: sub, rw: rw, out: http.NewResponseController(rw), sent: map[int64]bool{}}
	if text := c.Header.Get("Last-Event-ID"); text != "" {
		id := idNumber(text)
		if id == nil {
			return refuse("Last-Event-ID must be the id of an event")
		}
		f.floor = *id
	} else if f.floor, err = c.s.q.ApiSettledMessage(c.ctx, dbq.ApiSettledMessageParams{SubscriberNo: sub.ID, Seconds: streamSettles.Seconds()}); err != nil {
		return err
	} else if err := f.news(func(*dbq.ApiInboxRow) error { return nil }); err != nil { // these are no news
		return err
	}
	news, leave, err := c.s.listeners.join(c.ctx, sub.ID)
	if err != nil {
		return err
	}
	defer leave()
	rw.Header().Set("Content-Type", "text/event-stream")
	rw.Header().Set("Cache-Control", "no-cache")
	rw.Header().Set("X-Accel-Buffering", "no")
	if err := f.write("retry: 2000\n\n"); err != nil {
		return nil // the client is gone
	}
	ping := time.NewTicker(streamPing)
	defer ping.Stop()
	for {
		if err := f.news(f.send); err != nil {
			if c.ctx.Err() == nil {
				c.s.log.WarnContext(c.ctx, "a stream of messages ends", "error", err)
			}
			return nil // the client comes again, with the last id
		}
		select {
		case <-c.ctx.Done():
			return nil
		case <-c.s.ends:
			return nil
		case <-news:
		case <-ping.C:
			if f.write(": \n\n") != nil {
				return nil
			}
		}
	}
}

// follower is one stream.
type follower struct {
	c     *call
	sub   *dbq.ApiGetSubscriberRow
	rw    http.ResponseWriter
	out   *http.ResponseController
	floor int64          // nothing at or below it is sent any more
	sent  map[int64]bool // above it
}

func (f *follower) write(text string) error {
	_ = f.out.SetWriteDeadline(time.Now().Add(streamLine)) // as long as the server lets us
	if _, err := f.rw.Write([]byte(text)); err != nil {
		return err
	}
	return f.out.Flush()
}

func (f *follower) send(r *dbq.ApiInboxRow) error {
	raw, err := json.Marshal(showItem(r, f.sub))
	if err != nil {
		return err
	}
	return f.write(fmt.Sprintf("id: %d\nevent: message\ndata: %s\n\n", r.ID, raw))
}

// news gives away what has not been given away yet, the oldest first.
func (f *follower) news(give func(r *dbq.ApiInboxRow) error) error {
	for from := f.floor; ; {
		rows, err := f.c.s.q.ApiInboxAfter(f.c.ctx, dbq.ApiInboxAfterParams{SubscriberNo: f.sub.ID, After: from, MaxRows: streamMost})
		if err != nil {
			return err
		}
		for i := range rows {
			r := dbq.ApiInboxRow(rows[i])
			if !f.sent[r.ID] {
				if err := give(&r); err != nil {
					return err
				}
				f.sent[r.ID] = true
			}
			from = r.ID
			if time.Since(r.CreatedAt) > streamSettles {
				f.floor = max(f.floor, r.ID)
			}
		}
		if len(rows) < streamMost {
			break
		}
	}
	maps.DeleteFunc(f.sent, func(id int64, _ bool) bool { return id <= f.floor })
	return nil
}

// listeners hears for all streams of this process of new messages, over one
// connection of its own, as long as there is any stream.
type listeners struct {
	pool *pgxpool.Pool
	log  *slog.Logger

	mu   sync.Mutex
	of   map[int64]map[chan struct{}]bool // by subscribers.id
	stop context.CancelFunc
}

// join says when there is news for a subscriber. It returns when it is listened for.
func (l *listeners) join(ctx context.Context, subscriber int64) (news <-chan struct{}, leave func(), err error) {
	mine := make(chan struct{}, 1)
	l.mu.Lock()
	if l.of[subscriber] == nil {
		l.of[subscriber] = map[chan struct{}]bool{}
	}
	l.of[subscriber][mine] = true
	ready := make(chan struct{})
	if l.stop == nil {
		var listen context.Context
		listen, l.stop = context.WithCancel(context.WithoutCancel(ctx))
		go l.listen(listen, ready)
	} else {
		close(ready)
	}
	l.mu.Unlock()
	leave = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if delete(l.of[subscriber], mine); len(l.of[subscriber]) == 0 {
			delete(l.of, subscriber)
		}
		if len(l.of) == 0 {
			l.stop()
			l.stop = nil
		}
	}
	select {
	case <-ready:
	case <-time.After(5 * time.Second): // the table is looked at all the same
	case <-ctx.Done():
		leave()
		return nil, nil, ctx.Err()
	}
	return mine, leave, nil
}

// listen goes on, over ever new connections, until ctx ends.
func (l *listeners) listen(ctx context.Context, ready chan struct{}) {
	var once sync.Once
	for wait := time.Duration(0); ctx.Err() == nil; wait = min(2*wait+100*time.Millisecond, 5*time.Second) {
		if wait > 0 {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
		err := l.hear(ctx, func() { once.Do(func() { close(ready) }) })
		if ctx.Err() == nil {
			l.log.WarnContext(ctx, "new messages are not heard of for a moment", "error", err)
		}
	}
}

func (l *listeners) hear(ctx context.Context, begun func()) error {
	pooled, err := l.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	conn := pooled.Hijack()
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, `LISTEN pgautomate_messages`); err != nil {
		return err
	}
	begun()
	l.tellAll() // of what came while nobody heard
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		var subscribers []int64
		for text := range strings.SplitSeq(n.Payload, ",") {
			if id, err := strconv.ParseInt(text, 10, 64); err == nil {
				subscribers = append(subscribers, id)
			}
		}
		l.tell(subscribers)
	}
}

// tell wakes the streams of subscribers.
func (l *listeners) tell(subscribers []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range subscribers {
		wake(l.of[id])
	}
}

// tellAll wakes all streams.
func (l *listeners) tellAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, streams := range l.of {
		wake(streams)
	}
}

func wake(streams map[chan struct{}]bool) {
	for one := range streams {
		select {
		case one <- struct{}{}:
		default:
		}
	}
}
