//! System V IPC: objects named by small numbers and open to every process of the uid. And POSIX queues: to Landlock they are
//! files that may not be opened, but making and removing them asks it nothing.

use super::{Rule, always};

const SHARED: &str = "neighbours' shared memory can be listed, read and overwritten";
const QUEUE: &str = "neighbours' messages can be received and sent";
const SEMAPHORE: &str = "neighbours' semaphores can be taken and removed";
const POSIX_QUEUE: &str = "queues that outlive the Run can be made, and neighbours' be removed";

pub(super) const RULES: &[Rule] = &[
    always("shmget", 29, 194, SHARED),
    always("shmat", 30, 196, SHARED),
    always("shmctl", 31, 195, SHARED),
    always("shmdt", 67, 197, SHARED),
    always("msgget", 68, 186, QUEUE),
    always("msgsnd", 69, 189, QUEUE),
    always("msgrcv", 70, 188, QUEUE),
    always("msgctl", 71, 187, QUEUE),
    always("semget", 64, 190, SEMAPHORE),
    always("semop", 65, 193, SEMAPHORE),
    always("semctl", 66, 191, SEMAPHORE),
    always("semtimedop", 220, 192, SEMAPHORE),
    always("mq_open", 240, 180, POSIX_QUEUE),
    always("mq_unlink", 241, 181, POSIX_QUEUE),
];
