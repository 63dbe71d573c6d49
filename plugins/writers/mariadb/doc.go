// Package mariadb is the writer of MariaDB and MySQL, told apart by what they say.
//
// It finds the servers that run in the guest by their processes, and their sockets by
// what those listen on.
//
//	Prepare   are all files on disks of the VM?
//	Freeze    a connection takes the lock and stays open
//	Thaw      the connection proves that it is still there, and ends
//
// The lock is BACKUP STAGE up to BLOCK_COMMIT in MariaDB 10.4 and newer, where it lets
// open transactions and long SELECTs be; LOCK INSTANCE FOR BACKUP with FLUSH TABLES WITH
// READ LOCK in MySQL 8 and 9; the latter alone in older MariaDBs. All of them
// hold tables that are not transactional, too: what was not in use is closed.
//
// The wait for the lock is bounded, since commits queue behind it. What is in the way
// is named by its number and age, never by its text, which holds data.
//
// The lock ends with its connection, and that with the process in the guest that keeps
// it: on Thaw and any Abort, after a time limit, and when it is killed.
//
// lull runs it as a plugin: Serve is the main function of that process.
package mariadb
