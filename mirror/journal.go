package mirror

import (
	"encoding/binary"

	"github.com/pgautomate/pgautomate/change"
)

// journal notes what rows were before they changed, so that the changes of a
// batch can be undone, the last one first. It is bytes in chunks: an entry is
//
//	kind, table, organization, length of the id, the id, the image
//	the length of all this, in 4 bytes, for the way back
//
// What concerns a whole table is a function instead.
type journal struct {
	open      bool
	forgotten bool
	chunks    [][]byte
	spare     [][]byte // of batches before
	tables    []*Table
	steps     []func()
	bytes     int64 // of the chunks, with the spare ones
	kept      int64 // of tables that only the steps keep
}

const (
	noteRow    = 1 + iota // the row was this
	noteAbsent            // there was no such row
	noteStep              // undo it with the last of steps
)

const (
	chunkSize  = 128 << 10
	keepChunks = 2 << 20 // bytes that are kept for the next batch
)

func (j *journal) begin() {
	if j.open {
		panic("mirror: Begin inside Begin")
	}
	j.open = true
}

func (j *journal) held() int64 { return j.bytes + j.kept }

// end forgets what was noted.
func (j *journal) end() {
	for _, t := range j.tables {
		t.journal = 0
	}
	for _, c := range j.chunks {
		j.reuse(c)
	}
	*j = journal{spare: j.spare, bytes: j.bytes}
}

// reuse keeps an empty chunk for later, or gives it up.
func (j *journal) reuse(chunk []byte) {
	if cap(chunk) == chunkSize && len(j.spare) < keepChunks/chunkSize {
		j.spare = append(j.spare, chunk[:0])
		return
	}
	j.bytes -= int64(cap(chunk))
}

func (j *journal) forget() {
	if !j.open {
		return
	}
	j.end()
	*j = journal{open: true, forgotten: true}
}

func (j *journal) noting() bool { return j.open && !j.forgotten }

// chunk gives a chunk with room for so many bytes more.
func (j *journal) chunk(size int) *[]byte {
	last := len(j.chunks) - 1
	if last < 0 || cap(j.chunks[last])-len(j.chunks[last]) < size {
		if n := len(j.spare); n > 0 && size <= chunkSize {
			j.chunks = append(j.chunks, j.spare[n-1])
			j.spare = j.spare[:n-1]
		} else {
			room := max(chunkSize, size)
			j.chunks = append(j.chunks, make([]byte, 0, room))
			j.bytes += int64(room)
		}
		last++
	}
	return &j.chunks[last]
}

// row notes what a row of t is, before it changes. It does no harm if the row
// doesn't change after all.
func (j *journal) row(t *Table, id []byte, exists bool, before *entry) {
	if !j.noting() {
		return
	}
	if t.journal == 0 {
		j.tables = append(j.tables, t)
		t.journal = uint32(len(j.tables))
	}
	c := j.chunk(1 + 4 + 4 + 4 + len(id) + len(before.image) + 4)
	start := len(*c)
	b := *c
	kind := byte(noteAbsent)
	if exists {
		kind = noteRow
	}
	b = append(b, kind)
	b = binary.LittleEndian.AppendUint32(b, t.journal-1)
	b = binary.LittleEndian.AppendUint32(b, before.organization)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(id)))
	b = append(b, id...)
	if exists {
		b = append(b, before.image...)
	}
	*c = binary.LittleEndian.AppendUint32(b, uint32(len(b)-start))
}

// last takes the last note off and gives it, nil when there is none.
func (j *journal) last() []byte {
	for n := len(j.chunks); n > 0; n = len(j.chunks) {
		c := j.chunks[n-1]
		if len(c) > 0 {
			end := len(c) - 4
			start := end - int(binary.LittleEndian.Uint32(c[end:]))
			j.chunks[n-1] = c[:start]
			return c[start:end]
		}
		j.chunks = j.chunks[:n-1]
		j.reuse(c)
	}
	return nil
}

// step notes a change of a whole table: how to undo it, and the memory that is
// held for that.
func (j *journal) step(held int64, undo func()) {
	if !j.noting() {
		return
	}
	c := j.chunk(1 + 4)
	*c = append(*c, noteStep, 1, 0, 0, 0)
	j.steps = append(j.steps, undo)
	j.kept += held
}

func (j *journal) rollback() error {
	if !j.open {
		return nil
	}
	forgotten := j.forgotten
	defer j.end()
	if forgotten {
		return ErrForgotten
	}
	for note := j.last(); note != nil; note = j.last() {
		if note[0] == noteStep {
			last := len(j.steps) - 1
			j.steps[last]()
			j.steps = j.steps[:last]
			continue
		}
		t := j.tables[binary.LittleEndian.Uint32(note[1:])]
		organization := binary.LittleEndian.Uint32(note[5:])
		size := int(binary.LittleEndian.Uint32(note[9:]))
		id, image := note[13:13+size], note[13+size:]
		if err := t.restore(id, note[0] == noteRow, organization, image); err != nil {
			return err
		}
	}
	return nil
}

// restore makes a row what it was.
func (t *Table) restore(id []byte, exists bool, organization uint32, image change.Row) error {
	hash := t.rows.hash(id)
	place := t.rows.find(hash, id)
	switch {
	case exists:
		if err := t.rows.write(place, hash, id, organization, image); err != nil {
			return t.failed(err)
		}
	case place != 0:
		t.rows.remove(place, hash)
	}
	return nil
}
