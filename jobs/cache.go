package jobs

// What was parsed is kept: stages' actions have the same parameters and templates for every lead.

import (
	"container/list"
	"sync"
)

// cache keeps what was made of texts, the most recently used up to so many bytes of text. What it gives is shared:
// nobody may change it.
type cache[V any] struct {
	most int // bytes

	mu      sync.Mutex
	entries map[string]*list.Element
	order   list.List // front: used last
	bytes   int
}

type cached[V any] struct {
	source string
	value  V
}

// cacheOverhead of a value beside its text, roughly.
const cacheOverhead = 512

func newCache[V any](most int) *cache[V] {
	return &cache[V]{most: most, entries: map[string]*list.Element{}}
}

func (c *cache[V]) get(source string) (value V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[source]
	if !ok {
		return value, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached[V]).value, true //nolint:forcetypeassert // the list holds nothing else
}

func (c *cache[V]) put(source string, value V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.entries[source]; there {
		return
	}
	c.entries[source] = c.order.PushFront(&cached[V]{source, value})
	c.bytes += len(source) + cacheOverhead
	for c.bytes > c.most {
		last := c.order.Back()
		old := c.order.Remove(last).(*cached[V]) //nolint:forcetypeassert // as above
		delete(c.entries, old.source)
		c.bytes -= len(old.source) + cacheOverhead
	}
}
