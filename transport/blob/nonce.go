package blob

import (
	"context"
	"crypto/rand"
)

type nonceKey struct{}

// WithNonce gives the creation of one object an identity that outlives a single
// call of Create. Whoever calls Create again, because the reply to the first call
// was lost, passes the same ctx: a store that finds the object there, under the
// same nonce, knows that it was this creation that made it.
func WithNonce(ctx context.Context) context.Context {
	return context.WithValue(ctx, nonceKey{}, rand.Text())
}

// Nonce is the nonce of ctx, or a fresh one when ctx has none.
func Nonce(ctx context.Context) string {
	if nonce, ok := ctx.Value(nonceKey{}).(string); ok {
		return nonce
	}
	return rand.Text()
}
