package feed

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"slices"
	"sync"
	"unsafe"

	"github.com/pgautomate/pgautomate/change"
)

// This file holds a transaction that has outgrown its memory: the same entries,
// rows and index that netter keeps in memory, in temporary files behind caches
// of a fixed size. The netting itself is the same code, so it gives the same.
//
//	rows     every kept row and id, appended in the order of the stream
//	entries  one fixed-size record for each touched object, in order of first touch
//	live     hash table: id now -> entry; verified against the entry, so a
//	gone     hash table: id before -> entry   collision of hashes is no matter
//
// The files have no name from the moment they are made: whatever ends the
// process, the space comes back.

// spill is one transaction in files. After release it is only read: by Each.
type spill struct {
	dir   string
	limit int
	pause func() error // called now and then by what may take long
	hash  func(typ string, id []byte) uint64

	rows    rowLog
	entries pages
	count   int
	live    *table
	gone    *table

	layouts []*layout
	number  map[*layout]uint32 // place in layouts, plus 1

	steps int
	orgs  interned
	given int // changes that the last Each gave
}

// spillError carries a failure of the files, or an error of pause, up to where
// rescue takes it: the netting in between has nothing to say about it.
type spillError struct{ err error }

func fail(err error) { panic(spillError{err}) }

func rescue(err *error) {
	switch r := recover().(type) {
	case nil:
	case spillError:
		*err = r.err
	default:
		panic(r)
	}
}

const (
	pageSize   = 4 << 10
	recordSize = 72
	perPage    = pageSize / recordSize
	slotSize   = 16
	slotsPage  = pageSize / slotSize
	windowSize = 16 << 10
	rowBuffer  = 1 << 20
	pauseEvery = 1 << 14 // steps of a long walk
)

// newSpill makes no file yet, so that it can be closed whatever open comes to.
func newSpill(dir string, limit int, pause func() error) *spill {
	if dir == "" {
		dir = os.TempDir()
	}
	seed := maphash.MakeSeed()
	s := &spill{dir: dir, limit: limit, pause: pause, number: map[*layout]uint32{}}
	s.hash = func(typ string, id []byte) uint64 {
		return maphash.String(seed, typ)*0x9e3779b97f4a7c15 + maphash.Bytes(seed, id)
	}
	return s
}

// open makes the files. The caches together take less than limit: a half the
// index of live entries, an eighth each the index of gone ones and the entries.
func (s *spill) open() {
	s.rows = rowLog{file: s.file()}
	s.entries = pages{file: s.file(), frames: make([]frame, frames(s.limit/8))}
}

func frames(size int) int { return max(1, size/pageSize) }

// file is a temporary file without a name. Its failures are spillErrors.
type file struct {
	*os.File

	spill *spill
}

func (s *spill) file() file {
	f, err := os.CreateTemp(s.dir, "pgautomate-spill-")
	if err == nil {
		err = os.Remove(f.Name())
	}
	if err != nil {
		s.fail(err)
	}
	return file{f, s}
}

func (s *spill) fail(err error) {
	fail(fmt.Errorf("a transaction of more than %d KiB goes to temporary files in %s, which failed; it comes again, nothing is lost: %w",
		s.limit>>10, s.dir, err))
}

func (f file) close() {
	if f.File != nil {
		_ = f.Close()
	}
}

func (f file) write(b []byte, at int64) {
	if _, err := f.WriteAt(b, at); err != nil {
		f.spill.fail(err)
	}
}

// read fills b, as far as there is a file.
func (f file) read(b []byte, at int64) (n int) {
	n, err := f.ReadAt(b, at)
	if err != nil && !errors.Is(err, io.EOF) {
		f.spill.fail(err)
	}
	return n
}

// rest, called at each step of what may take long, gives the session its turn.
func (s *spill) rest() {
	if s.steps++; s.pause != nil && s.steps%pauseEvery == 0 {
		if err := s.pause(); err != nil {
			fail(err)
		}
	}
}

// release lets go of what only netting needs.
func (s *spill) release() {
	for _, t := range []*table{s.live, s.gone} {
		if t != nil {
			t.pages.close()
		}
	}
	s.live, s.gone, s.number, s.pause = nil, nil, nil, nil
	s.rows.flush()
	s.rows.buffer = nil
	s.entries.shrink(1)
}

func (s *spill) close() {
	for _, t := range []*table{s.live, s.gone} {
		if t != nil {
			t.pages.close()
		}
	}
	s.entries.close()
	s.rows.file.close()
}

// Each implements change.Large.
func (s *spill) Each(f func(*change.Change) error) error {
	return s.each(f, func(*layout) {})
}

// each walks the entries in order of first touch. What it hands out are copies,
// in blocks like those of a small commit.
func (s *spill) each(f func(*change.Change) error, orgMissing func(*layout)) (err error) {
	defer rescue(&err)
	s.given = 0
	var blocks arena
	for i := range s.count {
		s.rest()
		e := s.load(i)
		if nothing(s, &e) {
			continue
		}
		before, after := s.copyRow(&blocks, 0, e.before), s.copyRow(&blocks, 1, e.after)
		id := func(r ref) string {
			if r.size == 0 {
				return ""
			}
			for _, holder := range []struct {
				ref

				row change.Row
			}{{e.after, after}, {e.before, before}} {
				if at := r.at - holder.at; r.at >= holder.at && at+uint64(r.size) <= uint64(holder.size) {
					return borrow(holder.row[at : at+uint64(r.size)])
				}
			}
			return borrow(blocks.copy(s.bytes(0, r)))
		}
		c := netChange(&e, before, after, id(e.original), id(e.id), &s.orgs, orgMissing)
		s.given++
		if err := f(&c); err != nil {
			return err
		}
	}
	return nil
}

func (s *spill) copyRow(blocks *arena, window int, r ref) change.Row {
	if r.size == 0 {
		return nil
	}
	return blocks.copy(s.bytes(window, r))
}

// bytes implements keeper.
func (s *spill) bytes(window int, r ref) []byte { return s.rows.read(window, r) }

// ---- entries

const (
	flagExisted = 1 << iota
	flagUnknown
	flagAlive
	flagDropped
)

func (s *spill) load(i int) entry {
	b := s.entries.page(int64(i/perPage), false)[i%perPage*recordSize:]
	u32, u64 := binary.LittleEndian.Uint32, binary.LittleEndian.Uint64
	flags := b[68]
	return entry{
		before:       ref{u64(b), u32(b[32:])},
		after:        ref{u64(b[8:]), u32(b[36:])},
		original:     ref{u64(b[16:]), u32(b[40:])},
		id:           ref{u64(b[24:]), u32(b[44:])},
		next:         int(u64(b[48:])),
		beforeLayout: s.layout(u32(b[56:])), afterLayout: s.layout(u32(b[60:])),
		existed: flags&flagExisted != 0, unknown: flags&flagUnknown != 0,
		alive: flags&flagAlive != 0, dropped: flags&flagDropped != 0,
	}
}

func (s *spill) store(i int, e *entry) {
	b := s.entries.page(int64(i/perPage), true)[i%perPage*recordSize:]
	p32, p64 := binary.LittleEndian.PutUint32, binary.LittleEndian.PutUint64
	for at, r := range []ref{e.before, e.after, e.original, e.id} {
		p64(b[8*at:], r.at)
		p32(b[32+4*at:], r.size)
	}
	p64(b[48:], uint64(e.next))
	p32(b[56:], s.layoutNumber(e.beforeLayout))
	p32(b[60:], s.layoutNumber(e.afterLayout))
	var flags byte
	for _, f := range []struct {
		set bool
		bit byte
	}{{e.existed, flagExisted}, {e.unknown, flagUnknown}, {e.alive, flagAlive}, {e.dropped, flagDropped}} {
		if f.set {
			flags |= f.bit
		}
	}
	b[68] = flags
}

func (s *spill) add(e *entry) int {
	s.count++
	s.store(s.count-1, e)
	return s.count - 1
}

func (s *spill) layout(number uint32) *layout {
	if number == 0 {
		return nil
	}
	return s.layouts[number-1]
}

func (s *spill) layoutNumber(l *layout) uint32 {
	if l == nil {
		return 0
	}
	number, ok := s.number[l]
	if !ok {
		s.layouts = append(s.layouts, l)
		number = uint32(len(s.layouts))
		s.number[l] = number
	}
	return number
}

// ---- rows

// rowLog is a file that is appended to. A ref's place is its offset.
type rowLog struct {
	file    file
	end     int64  // of the file; the buffer follows
	buffer  []byte // appended, not yet written
	windows [2]struct {
		at   int64
		data []byte
	}
}

func (l *rowLog) append(b []byte) ref {
	if len(l.buffer)+len(b) > rowBuffer {
		l.flush()
	}
	r := ref{uint64(l.end) + uint64(len(l.buffer)), uint32(len(b))}
	if len(b) >= rowBuffer {
		l.write(b)
		return r
	}
	if l.buffer == nil {
		l.buffer = make([]byte, 0, rowBuffer)
	}
	l.buffer = append(l.buffer, b...)
	return r
}

func (l *rowLog) flush() {
	l.write(l.buffer)
	l.buffer = l.buffer[:0]
}

func (l *rowLog) write(b []byte) {
	if len(b) == 0 {
		return
	}
	l.file.write(b, l.end)
	l.end += int64(len(b))
}

// read gives bytes that hold until the next read by the same window, or the
// next append.
func (l *rowLog) read(window int, r ref) []byte {
	if r.size == 0 {
		return nil
	}
	at := int64(r.at)
	if at >= l.end {
		return l.buffer[at-l.end:][:r.size]
	}
	if r.size > windowSize {
		b := make([]byte, r.size)
		l.file.read(b, at)
		return b
	}
	w := &l.windows[window]
	if at < w.at || at+int64(r.size) > w.at+int64(len(w.data)) {
		if w.data == nil {
			w.data = make([]byte, windowSize)
		}
		w.data = w.data[:0] // should it fail
		n := l.file.read(w.data[:min(windowSize, l.end-at)], at)
		w.at, w.data = at, w.data[:n]
	}
	return w.data[at-w.at:][:r.size]
}

// ---- pages

// pages is a file of pages of which some are in memory: page p in frame
// p modulo their number, if at all.
type pages struct {
	file   file
	frames []frame
	end    int64 // pages in the file; those beyond are zero
}

type frame struct {
	page  int64 // plus 1
	dirty bool
	data  []byte
}

// page gives a page until the next call.
func (s *pages) page(p int64, write bool) []byte {
	f := &s.frames[p%int64(len(s.frames))]
	if f.page != p+1 {
		s.save(f)
		if f.data == nil {
			f.data = make([]byte, pageSize)
		}
		n := 0
		if p < s.end {
			f.page = 0
			n = s.file.read(f.data, p*pageSize)
		}
		clear(f.data[n:])
		f.page = p + 1
	}
	f.dirty = f.dirty || write
	return f.data
}

func (s *pages) save(f *frame) {
	if !f.dirty {
		return
	}
	p := f.page - 1
	s.file.write(f.data, p*pageSize)
	f.dirty = false
	s.end = max(s.end, p+1)
}

// shrink writes everything and keeps n frames.
func (s *pages) shrink(n int) {
	for i := range s.frames {
		s.save(&s.frames[i])
	}
	s.frames = make([]frame, n)
}

func (s *pages) close() { s.file.close() }

// ---- hash tables

// table finds entries by the hash of a key. A slot is the hash and the entry's
// number plus 1: 0 is free, deadSlot was taken. A key's slots begin at its
// hash's upper bits, so that a table grows from front to back.
type table struct {
	spill  *spill
	budget int // of the cache
	pages  pages
	bits   uint
	taken  int // slots that aren't free
	alive  int // of them, not dead
}

const deadSlot = ^uint64(0)

func newTable(s *spill, budget, keys int) *table {
	t := &table{spill: s, budget: budget}
	t.make(keys)
	return t
}

func (t *table) make(keys int) {
	for t.bits = 8; 1<<t.bits < 3*keys; {
		t.bits++
	}
	t.taken, t.alive = 0, 0
	t.pages = pages{file: t.spill.file(), frames: make([]frame, min(frames(t.budget), 1<<t.bits/slotsPage))}
}

func (t *table) slot(at uint64, write bool) []byte {
	return t.pages.page(int64(at/slotsPage), write)[at%slotsPage*slotSize:][:slotSize]
}

// find looks for a key whose hash is known; same says whether an entry has it.
// Without it, at is where it could be put.
func (t *table) find(hash uint64, same func(i int) bool) (at uint64, i int, found bool) {
	mask := uint64(1)<<t.bits - 1
	free, haveFree := uint64(0), false
	for at = hash >> (64 - t.bits); ; at = (at + 1) & mask {
		b := t.slot(at, false)
		h, v := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
		switch {
		case v == 0:
			if haveFree {
				at = free
			}
			return at, 0, false
		case v == deadSlot:
			if !haveFree {
				free, haveFree = at, true
			}
		case h == hash && same(int(v-1)):
			return at, int(v - 1), true
		}
	}
}

func (t *table) set(hash uint64, i int, same func(i int) bool) {
	at, _, found := t.find(hash, same)
	t.put(at, hash, i)
	if found {
		return
	}
	if t.taken > 1<<t.bits/10*7 {
		t.grow()
	}
}

// put writes a slot.
func (t *table) put(at, hash uint64, i int) {
	b := t.slot(at, true)
	switch binary.LittleEndian.Uint64(b[8:]) {
	case 0:
		t.taken++
		t.alive++
	case deadSlot:
		t.alive++
	}
	binary.LittleEndian.PutUint64(b, hash)
	binary.LittleEndian.PutUint64(b[8:], uint64(i)+1)
}

func (t *table) remove(hash uint64, same func(i int) bool) {
	if at, _, found := t.find(hash, same); found {
		binary.LittleEndian.PutUint64(t.slot(at, true)[8:], deadSlot)
		t.alive--
	}
}

// keyKind says which of an entry's ids a table's keys are.
type keyKind bool

const (
	byID       keyKind = false
	byOriginal keyKind = true
)

func (s *spill) has(i int, key objectKey, kind keyKind) bool {
	e := s.load(i)
	id := e.id
	if kind == byOriginal {
		id = e.original
	}
	return borrow(s.bytes(1, id)) == key.id && e.beforeLayout.object.Type == key.typ
}

func (s *spill) keyHash(key objectKey) uint64 {
	return s.hash(key.typ, unsafe.Slice(unsafe.StringData(key.id), len(key.id)))
}

func (s *spill) getKey(t *table, key objectKey, kind keyKind) (i int, ok bool) {
	_, i, ok = t.find(s.keyHash(key), func(i int) bool { return s.has(i, key, kind) })
	return i, ok
}

func (s *spill) setKey(t *table, key objectKey, kind keyKind, i int) {
	t.set(s.keyHash(key), i, func(i int) bool { return s.has(i, key, kind) })
}

func (s *spill) removeKey(t *table, key objectKey, kind keyKind) {
	t.remove(s.keyHash(key), func(i int) bool { return s.has(i, key, kind) })
}

// grow makes the table anew, with room and without dead slots.
func (t *table) grow() {
	old, slots, alive := t.pages, uint64(1)<<t.bits, t.alive
	old.shrink(1)
	t.make(alive)
	defer old.close()
	for at := range slots {
		t.spill.rest()
		b := old.page(int64(at/slotsPage), false)[at%slotsPage*slotSize:]
		h, v := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
		if v == 0 || v == deadSlot {
			continue
		}
		to, _, _ := t.find(h, func(int) bool { return false })
		t.put(to, h, int(v-1))
	}
}

// ---- a session's files

// spills are the transactions of a session that are in files.
type spills struct {
	mu   sync.Mutex
	list []*spill
}

func (l *spills) add(s *spill) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, s)
}

func (l *spills) close(s *spill) {
	s.close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = slices.DeleteFunc(l.list, func(o *spill) bool { return o == s })
}

// closeAll is for when nobody uses any of them.
func (l *spills) closeAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.list {
		s.close()
	}
	l.list = nil
}
