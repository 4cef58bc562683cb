package notification

// Where attachments are kept between trigger and sending: a folder, or what
// gocloud.dev knows by URL.

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/fileblob" // file://
	_ "gocloud.dev/blob/memblob"  // mem://
	_ "gocloud.dev/blob/s3blob"   // s3://
	"gocloud.dev/gcerrors"
)

// Bucket is a place for attachments.
type Bucket struct{ bucket *blob.Bucket }

// OpenBucket opens the place that ATTACHMENTS_URL names: file:///folder, s3://bucket
// or mem://; a folder in the user's cache without one. The error says what to do.
func OpenBucket(ctx context.Context, at string) (*Bucket, error) {
	if at == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			cache = os.TempDir()
		}
		at = "file://" + filepath.ToSlash(filepath.Join(cache, "pgautomate", "attachments"))
	}
	u, err := url.Parse(at)
	if err != nil || u.Scheme == "" {
		return nil, errors.New("ATTACHMENTS_URL can't be read: use file:///folder or s3://bucket?region=…")
	}
	if u.Scheme == "file" {
		q := u.Query()
		q.Set("create_dir", "true")
		q.Set("no_tmp_dir", "true")
		q.Set("metadata", "skip")
		u.RawQuery = q.Encode()
	}
	b, err := blob.OpenBucket(ctx, u.String())
	if err != nil {
		return nil, fmt.Errorf("ATTACHMENTS_URL: %s:// can't be opened: %w; use file:///folder or s3://bucket?region=…", u.Scheme, err)
	}
	return &Bucket{b}, nil
}

// Put keeps content under a name.
func (b *Bucket) Put(ctx context.Context, key string, content []byte) error {
	return b.bucket.WriteAll(ctx, key, content, &blob.WriterOptions{ContentType: "application/octet-stream"})
}

// Get gives what is kept; ErrNoAttachment when there is nothing.
func (b *Bucket) Get(ctx context.Context, key string) ([]byte, error) {
	raw, err := b.bucket.ReadAll(ctx, key)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil, ErrNoAttachment
	}
	return raw, err
}

// Delete forgets it; ErrNoAttachment when there is nothing.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	err := b.bucket.Delete(ctx, key)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return ErrNoAttachment
	}
	return err
}

// Close lets go of it.
func (b *Bucket) Close() error { return b.bucket.Close() }
