"""The function that runs tables, and the threads that share its rows, as LLVM IR.

    run(bases, table, rows)      rows one after the other          a row that may be cut: its chunks by all threads

A chunk is a part of ``begin .. end``, or, of a row that has slices, one of these: all of ``begin .. end`` on windows
and sizes of its own.

A table that starts with a row without a kernel is run by several threads: that row says by how many, where each one's
bases lie, and which table to run alone when the threads are busy with another one.

The threads of a process (``pool``) wait for ``ticket``: how many threads may take part, and how many chunks are left.
Who lowers it owns a chunk; nothing else has to be agreed on, so a thread that is late finds no chunk and nobody waits
for it.  What describes the row may change only when all its chunks are done, so it is read behind the ticket.  Idle
threads spin for a while, then sleep on a condition, where whoever makes chunks looks for them.

A process that was forked has the memory of the pool and none of its threads: the number of the process is compared, and
the pool starts anew.
"""

from __future__ import annotations

import re

# Rounds of waiting before a thread goes to sleep, and before one that needs the others lets them run.
SPINS, PATIENCE = 20_000, 2_000
# What tells the CPU that a thread waits in a loop.
PAUSES = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
    "arm64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}

# Where the pool holds what: `@pool.done` in the text below is the address of that field.
POOL = {
    "ticket": 0,  # how many threads may take part, how many chunks are left
    "done": 2,  # chunks of this row
    "row": 4,
    "bases": 5,
    "stride": 6,  # from one thread's bases to the next one's
    "count": 7,  # chunks of this row
    "failed": 8,  # whether one of them did
    "threads": 9,  # that were started
    "busy": 11,  # whether a table is run
    "asleep": 12,  # how many threads are
    "claimed": 13,  # the process whose thread makes the pool anew
    "process": 14,  # whose pool it is
    "mutex": 16,
    "condition": 17,
}

RUNNER_IR = """
%row = type { ptr, ptr, ptr, i64, i64, i64, ptr, i64, i64, i64 }

; What many threads write lies apart, each in cache lines of its own.
%pool = type {
  i64, [15 x i64],
  i64, [15 x i64],
  ptr, ptr, i64, i64, i64, i64, [10 x i64],
  i64, i64, i64, i64, [12 x i64],
  [16 x i64], [16 x i64]
}

@pool = internal global %pool zeroinitializer, align 128

declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_detach(ptr)
declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @sigfillset(ptr)
declare i32 @sched_yield()
declare i32 @getpid()
DECLARE_PAUSE

; Bases, windows and so on of a row, for the iterations from %begin to %end.
define internal i32 @call(%row %fields, ptr %bases, i64 %begin, i64 %end) nounwind alwaysinline {
  %kernel = extractvalue %row %fields, 0
  %windows = extractvalue %row %fields, 1
  %sizes = extractvalue %row %fields, 2
  %add = extractvalue %row %fields, 3
  %scratch = extractvalue %row %fields, 6
  %status = call i32 %kernel(ptr %bases, ptr %windows, ptr %sizes, i64 %add, i64 %begin, i64 %end, ptr %scratch)
  ret i32 %status
}

define i32 @run(ptr %bases, ptr %table, i64 %rows) nounwind {
entry:
  %any = icmp sgt i64 %rows, 0
  br i1 %any, label %first, label %alone
first:
  %kernel = load ptr, ptr %table
  %shared = icmp eq ptr %kernel, null
  br i1 %shared, label %together, label %alone
together:
  %result = call i32 @run_together(ptr %bases, ptr %table, i64 %rows)
  ret i32 %result
alone:
  %status = call i32 @run_alone(ptr %bases, ptr %table, i64 0, i64 %rows)
  ret i32 %status
}

; Rows %k .. %rows: 0, or the number of the row whose kernel failed, counted from 1.
define internal i32 @run_alone(ptr %bases, ptr %table, i64 %from, i64 %rows) nounwind {
entry:
  br label %head
head:
  %k = phi i64 [ %from, %entry ], [ %next, %after ]
  %more = icmp slt i64 %k, %rows
  br i1 %more, label %body, label %done
body:
  %row = getelementptr %row, ptr %table, i64 %k
  %fields = load %row, ptr %row
  %begin = extractvalue %row %fields, 4
  %end = extractvalue %row %fields, 5
  %status = call i32 @call(%row %fields, ptr %bases, i64 %begin, i64 %end)
  %ok = icmp eq i32 %status, 0
  br i1 %ok, label %after, label %fail
after:
  %next = add i64 %k, 1
  br label %head
fail:
  %number = trunc i64 %k to i32
  %failed = add i32 %number, 1
  ret i32 %failed
done:
  ret i32 0
}

define internal i32 @run_together(ptr %bases, ptr %table, i64 %rows) nounwind {
entry:
  %header = load %row, ptr %table
  %other = extractvalue %row %header, 1
  %threads = extractvalue %row %header, 3
  %stride = extractvalue %row %header, 4
  call void @start_over_after_fork()
  %taken = cmpxchg ptr @pool.busy, i64 0, i64 1 acquire monotonic
  %mine = extractvalue { i64, i1 } %taken, 1
  br i1 %mine, label %ready, label %busy
busy:
  %result = call i32 @run_alone(ptr %bases, ptr %other, i64 1, i64 %rows)
  ret i32 %result
ready:
  call void @start_threads(i64 %threads)
  call void @wake()
  br label %head
head:
  %k = phi i64 [ 1, %ready ], [ %next, %after ]
  %more = icmp slt i64 %k, %rows
  br i1 %more, label %body, label %done
body:
  %row = getelementptr %row, ptr %table, i64 %k
  %fields = load %row, ptr %row
  %begin = extractvalue %row %fields, 4
  %end = extractvalue %row %fields, 5
  %chunk = extractvalue %row %fields, 7
  %whole = icmp eq i64 %chunk, 0
  br i1 %whole, label %by_one, label %by_all
by_one:
  %one = call i32 @call(%row %fields, ptr %bases, i64 %begin, i64 %end)
  br label %check
by_all:
  %extent = sub i64 %end, %begin
  %last = sub i64 %chunk, 1
  %up = add i64 %extent, %last
  %chunks = sdiv i64 %up, %chunk
  %slices = extractvalue %row %fields, 8
  %sliced = icmp ne i64 %slices, 0
  %count = select i1 %sliced, i64 %slices, i64 %chunks
  %all = call i32 @share(ptr %row, ptr %bases, i64 %stride, i64 %threads, i64 %count)
  br label %check
check:
  %status = phi i32 [ %one, %by_one ], [ %all, %by_all ]
  %ok = icmp eq i32 %status, 0
  br i1 %ok, label %after, label %done
after:
  %next = add i64 %k, 1
  br label %head
done:
  %failed = phi i1 [ false, %head ], [ true, %check ]
  %number = trunc i64 %k to i32
  %failure = add i32 %number, 1
  %said = select i1 %failed, i32 %failure, i32 0
  store atomic i64 0, ptr @pool.busy release, align 8
  ret i32 %said
}

; All chunks of a row, by this thread and others.
define internal i32 @share(ptr %row, ptr %bases, i64 %stride, i64 %threads, i64 %count) nounwind {
entry:
  store ptr %row, ptr @pool.row
  store ptr %bases, ptr @pool.bases
  store i64 %stride, ptr @pool.stride
  store i64 %count, ptr @pool.count
  store atomic i64 0, ptr @pool.failed monotonic, align 8
  store atomic i64 0, ptr @pool.done monotonic, align 8
  %limit = shl i64 %threads, 32
  %ticket = or i64 %limit, %count
  store atomic i64 %ticket, ptr @pool.ticket seq_cst, align 8
  call void @wake()
  br label %claim
claim:
  %taken = call i1 @take_chunk(i64 0)
  br i1 %taken, label %claim, label %wait
wait:
  %rounds = phi i64 [ 0, %claim ], [ %later, %idle ]
  %done = load atomic i64, ptr @pool.done acquire, align 8
  %all = icmp eq i64 %done, %count
  br i1 %all, label %end, label %spin
spin:
  %later = add i64 %rounds, 1
  %patient = icmp ult i64 %rounds, PATIENCE
  br i1 %patient, label %pause, label %yield
pause:
  PAUSE
  br label %idle
yield:
  %ignored = call i32 @sched_yield()
  br label %idle
idle:
  br label %wait
end:
  %failed = load atomic i64, ptr @pool.failed monotonic, align 8
  %status = trunc i64 %failed to i32
  ret i32 %status
}

; Run a chunk of the row that is shared now, as thread %id; whether there was one.
define internal i1 @take_chunk(i64 %id) nounwind {
entry:
  br label %look
look:
  %ticket = load atomic i64, ptr @pool.ticket acquire, align 8
  %left = and i64 %ticket, 4294967295
  %limit = lshr i64 %ticket, 32
  %some = icmp ne i64 %left, 0
  %admitted = icmp ult i64 %id, %limit
  %there = and i1 %some, %admitted
  br i1 %there, label %claim, label %none
claim:
  %lower = sub i64 %ticket, 1
  %swap = cmpxchg ptr @pool.ticket, i64 %ticket, i64 %lower acquire monotonic
  %mine = extractvalue { i64, i1 } %swap, 1
  br i1 %mine, label %run, label %look
run:
  %row = load ptr, ptr @pool.row
  %first = load ptr, ptr @pool.bases
  %stride = load i64, ptr @pool.stride
  %count = load i64, ptr @pool.count
  %fields = load %row, ptr %row
  %begin = extractvalue %row %fields, 4
  %end = extractvalue %row %fields, 5
  %chunk = extractvalue %row %fields, 7
  %index = sub i64 %count, %left
  %slices = extractvalue %row %fields, 8
  %step = extractvalue %row %fields, 9
  %sliced = icmp ne i64 %slices, 0
  %number = select i1 %sliced, i64 0, i64 %index
  %offset = mul i64 %number, %chunk
  %from = add i64 %begin, %offset
  %to = add i64 %from, %chunk
  %beyond = icmp sgt i64 %to, %end
  %until = select i1 %beyond, i64 %end, i64 %to
  %shift = mul i64 %index, %step
  %first_windows = extractvalue %row %fields, 1
  %first_sizes = extractvalue %row %fields, 2
  %windows = getelementptr i8, ptr %first_windows, i64 %shift
  %sizes = getelementptr i8, ptr %first_sizes, i64 %shift
  %moved = insertvalue %row %fields, ptr %windows, 1
  %slice = insertvalue %row %moved, ptr %sizes, 2
  %at = mul i64 %id, %stride
  %bases = getelementptr i8, ptr %first, i64 %at
  %status = call i32 @call(%row %slice, ptr %bases, i64 %from, i64 %until)
  %ok = icmp eq i32 %status, 0
  br i1 %ok, label %count_it, label %fail
fail:
  store atomic i64 1, ptr @pool.failed monotonic, align 8
  br label %count_it
count_it:
  %before = atomicrmw add ptr @pool.done, i64 1 release
  ret i1 true
none:
  ret i1 false
}

; Wake threads that sleep.  What they are woken for is stored before.
define internal void @wake() nounwind {
entry:
  fence seq_cst
  %asleep = load atomic i64, ptr @pool.asleep seq_cst, align 8
  %any = icmp ne i64 %asleep, 0
  br i1 %any, label %call, label %end
call:
  %locked = call i32 @pthread_mutex_lock(ptr @pool.mutex)
  %woken = call i32 @pthread_cond_broadcast(ptr @pool.condition)
  %unlocked = call i32 @pthread_mutex_unlock(ptr @pool.mutex)
  br label %end
end:
  ret void
}

; A thread of the pool: it never ends.
define internal ptr @work(ptr %number) nounwind {
entry:
  %id = ptrtoint ptr %number to i64
  br label %awake
awake:
  br label %look
look:
  %rounds = phi i64 [ 0, %awake ], [ %later, %idle ]
  %worked = call i1 @take_chunk(i64 %id)
  br i1 %worked, label %awake, label %rest
rest:
  %later = add i64 %rounds, 1
  %long = icmp ugt i64 %later, SPINS
  br i1 %long, label %sleep, label %idle
idle:
  PAUSE
  br label %look
sleep:
  %locked = call i32 @pthread_mutex_lock(ptr @pool.mutex)
  %more = atomicrmw add ptr @pool.asleep, i64 1 seq_cst
  %ticket = load atomic i64, ptr @pool.ticket seq_cst, align 8
  %left = and i64 %ticket, 4294967295
  %limit = lshr i64 %ticket, 32
  %some = icmp ne i64 %left, 0
  %admitted = icmp ult i64 %id, %limit
  %there = and i1 %some, %admitted
  br i1 %there, label %up, label %wait
wait:
  %woken = call i32 @pthread_cond_wait(ptr @pool.condition,
                                       ptr @pool.mutex)
  br label %up
up:
  %fewer = atomicrmw sub ptr @pool.asleep, i64 1 seq_cst
  %unlocked = call i32 @pthread_mutex_unlock(ptr @pool.mutex)
  br label %awake
}

; In a process that was forked the pool has no threads, whatever its memory says.
define internal void @start_over_after_fork() nounwind {
entry:
  %pid = call i32 @getpid()
  %now = zext i32 %pid to i64
  %known = load atomic i64, ptr @pool.process acquire, align 8
  %same = icmp eq i64 %known, %now
  br i1 %same, label %end, label %look
look:
  ; Several threads of a new process may come here: one of them does it, the others wait for it.
  %claimed = load atomic i64, ptr @pool.claimed acquire, align 8
  %others = icmp eq i64 %claimed, %now
  br i1 %others, label %wait, label %claim
claim:
  %swap = cmpxchg ptr @pool.claimed, i64 %claimed, i64 %now acq_rel monotonic
  %mine = extractvalue { i64, i1 } %swap, 1
  br i1 %mine, label %reset, label %wait
reset:
  store atomic i64 0, ptr @pool.ticket monotonic, align 8
  store atomic i64 0, ptr @pool.busy monotonic, align 8
  store atomic i64 0, ptr @pool.asleep monotonic, align 8
  store i64 0, ptr @pool.threads
  %m = call i32 @pthread_mutex_init(ptr @pool.mutex, ptr null)
  %c = call i32 @pthread_cond_init(ptr @pool.condition, ptr null)
  store atomic i64 %now, ptr @pool.process release, align 8
  br label %end
wait:
  %ignored = call i32 @sched_yield()
  %seen = load atomic i64, ptr @pool.process acquire, align 8
  %ready = icmp eq i64 %seen, %now
  br i1 %ready, label %end, label %wait
end:
  ret void
}

; Let there be threads 1 .. %threads - 1; where the system gives fewer, these do the work.
define internal void @start_threads(i64 %threads) nounwind {
entry:
  %handle = alloca i64, align 8
  %all = alloca [32 x i64], align 16
  %old = alloca [32 x i64], align 16
  %there = load i64, ptr @pool.threads
  %first = add i64 %there, 1
  %needed = icmp ult i64 %first, %threads
  br i1 %needed, label %block, label %end
block:
  ; Signals are for the threads of the program.
  %filled = call i32 @sigfillset(ptr %all)
  %masked = call i32 @pthread_sigmask(i32 SIG_SETMASK, ptr %all, ptr %old)
  br label %head
head:
  %id = phi i64 [ %first, %block ], [ %next, %started ]
  %more = icmp ult i64 %id, %threads
  br i1 %more, label %create, label %unblock
create:
  %number = inttoptr i64 %id to ptr
  %error = call i32 @pthread_create(ptr %handle, ptr null, ptr @work, ptr %number)
  %ok = icmp eq i32 %error, 0
  br i1 %ok, label %started, label %unblock
started:
  store i64 %id, ptr @pool.threads
  %thread = load ptr, ptr %handle
  %detached = call i32 @pthread_detach(ptr %thread)
  %next = add i64 %id, 1
  br label %head
unblock:
  %restored = call i32 @pthread_sigmask(i32 SIG_SETMASK, ptr %old, ptr null)
  br label %end
end:
  ret void
}
"""


def runner_ir(triple: str) -> str:
    """The module for a machine: how it waits in a loop, and a number of its system."""
    arch = triple.split("-")[0]
    declare, pause = PAUSES.get(arch, ("", "fence seq_cst"))
    words = {
        "DECLARE_PAUSE": declare,
        "PAUSE": pause,
        "SIG_SETMASK": "3" if "darwin" in triple else "2",
        "PATIENCE": str(PATIENCE),
        "SPINS": str(SPINS),
    }
    text = RUNNER_IR
    for word, value in words.items():
        text = text.replace(word, value)
    return re.sub(r"@pool\.(\w+)", lambda m: f"getelementptr (%pool, ptr @pool, i32 0, i32 {POOL[m[1]]})", text)
