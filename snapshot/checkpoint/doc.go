// Package checkpoint is the tree of a VM's local checkpoints, as data: which there are,
// what each was made upon, where the VM runs now, and what has to be done to the files
// of a disk when checkpoints go.
//
// A disk with checkpoints is a tree of images. Each checkpoint holds one, which nobody
// writes to any more; the VM writes to one more, its own, at the path that the disk
// always had, so that whatever starts the VM starts it from there:
//
//	disk.qcow2.lull-A.checkpoint        A, the first: the image as it was
//	  disk.qcow2.lull-B.checkpoint      B, made upon A: what was written between the two
//	    disk.qcow2                      the VM's own: what was written since B
//	  disk.qcow2.lull-C.checkpoint      C: the VM went back to A, and C was made there
//
// A host whose hypervisor keeps a record of where each image is moves the VM instead of the
// images (Tree.Own): what the VM wrote to becomes that of the checkpoint where it is, and
// the VM goes on in a new one.
//
// To create a checkpoint makes the VM's own image that of the checkpoint, and puts an
// empty one upon it. To apply one replaces the VM's own image by an empty one upon that
// of the checkpoint, which stays as it is.
//
// A checkpoint that is deleted is marked as gone, and Next says what to do about its
// images, one step after the other:
//
//	nothing rests upon it     Drop: they are removed
//	one image does            Fold: the two become one; see Fold for the way
//	more do                   nothing: they share it, until but one is left
//
// The hypervisor's host does the steps. All of them leave what every image shows as it
// was, at any moment, so that each can be begun anew after a crash: what counts is that
// a checkpoint is marked as gone before, and removed from the tree after.
//
// Invariants of a Tree:
//
//   - IDs differ, and so do the names of checkpoints that are not gone.
//   - Every parent is in the tree, and no checkpoint rests upon itself.
//   - Now, where the VM's own image rests, is in the tree, or empty.
package checkpoint
