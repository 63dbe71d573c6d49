package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/transport/blob/s3/policy"
)

func (in *invocation) policyCommand() *cobra.Command {
	var role, principal string
	var aws bool
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Write the S3 policy of a role",
		Long: "Write what an S3 store must let a role do in a repository of the configuration, and\n" +
			"no more, as a policy to be attached to a user or, with --principal, to the bucket.\n" +
			"See docs/s3-policies.md.",
		Example: "  lull repo policy --repository offsite --role backup --aws",
		Args:    argCount(0, 0, ""),
		RunE: in.run(func(*cobra.Command, []string) error {
			return in.policy(policy.Role(role), policy.Options{AWS: aws, Principal: principal})
		}),
	}
	cmd.Flags().StringVar(&role, "role", "backup", "`ROLE`: "+policyRoles())
	cmd.Flags().StringVar(&principal, "principal", "", "`USER` that a bucket's policy is for")
	cmd.Flags().BoolVar(&aws, "aws", false, "add conditions that AWS alone knows")
	return cmd
}

// policyRoles names all roles.
func policyRoles() string {
	var names []string
	for _, r := range policy.Roles() {
		names = append(names, string(r))
	}
	return orList(names)
}

func (in *invocation) policy(role policy.Role, o policy.Options) error {
	t, err := in.target()
	if err != nil {
		return err
	}
	r := t.repository
	if r.S3 == nil {
		return withHint(usagef("repo policy: repository %s is a folder", r.Name), "choose one with s3")
	}
	o.Bucket, o.Prefix = r.S3.Bucket, r.S3.Prefix
	if r.ObjectLock != nil {
		o.Lock, o.LockDays = true, lockBound(r.ObjectLock.Longest)
	}
	d, err := policy.For(role, o)
	if errors.Is(err, policy.ErrRole) {
		return withHint(usagef("repo policy: %v", err), "use %s", policyRoles())
	}
	if err != nil {
		return fmt.Errorf("policy of %s: %w", r.Name, err)
	}
	text, err := d.JSON()
	if err != nil {
		return err
	}
	if _, err := in.Stdout.Write(text); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// lockBound is the longest lock that a role needs to be allowed: what a renewal makes,
// and a day for clocks.
func lockBound(days int) int { return days + lockSlack(days) + 1 }

// lockSlack is for how many days beyond its need a lock is renewed, so that not every
// new restore point asks for a renewal of all that it reuses.
func lockSlack(days int) int { return max(2, days/8) }
