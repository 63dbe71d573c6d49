// Package dir keeps objects as files below a folder.
//
// An object is written to a temporary file in the folder .tmp, synced, and renamed
// to its name with RENAME_NOREPLACE, or linked where the file system cannot do
// that. So a file under an object's name is always whole and never replaced. Then
// its folder is synced, and so is every folder above it that this process has not
// seen durable yet; only then Create returns.
//
// Files are 0600, folders 0700. Symbolic links are not followed, and what is no
// regular file is no object. A crash leaves at most temporary files: Open removes
// those that nobody holds a lock on and nobody wrote to for an hour.
package dir
