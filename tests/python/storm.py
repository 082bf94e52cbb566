"""Many requests from several threads at one daemon: turns, counts, judgement, and the words at the end.

What is asked, and what is wrong with an answer, is its user's. Here every so many requests, and at the end, a valid
one must be answered as at the beginning; memory is read at every tenth and may grow by so much after the first; and
the daemon must stop with exit code 0.
"""

import collections
import sys
import threading
import time


class Storm:
    def __init__(self, daemon, count, sample, every):
        """`sample` asks a valid request and gives its status first; it is asked again after every so many."""
        self.daemon, self.count, self.sample, self.every = daemon, count, sample, every
        self.next, self.lock = 0, threading.Lock()
        self.counts, self.wrong, self.memory = collections.Counter(), [], []
        self.expected = sample()
        if self.expected[0] != 200:
            sys.exit(f"the sample image was answered {self.expected}")

    def numbers(self):
        """The next requests' numbers, for whichever thread asks."""
        while True:
            with self.lock:
                if self.next >= self.count:
                    return
                self.next += 1
                number = self.next
                if number % max(1, self.count // 10) == 0:
                    self.memory.append(self.daemon.memory_kb() // 1024)
                    print(number, dict(self.counts), f"{self.memory[-1]} MB", flush=True)
            yield number

    def note(self, number, word, trouble, what=""):
        """How a request went: a word to count it by, and what is wrong with it, if anything is."""
        if not trouble and number % self.every == 0 and self.sample() != self.expected:
            trouble = "the next valid request was answered otherwise"
        with self.lock:
            self.counts[str(word)] += 1
            if trouble:
                self.wrong.append(f"request {number}{what}: {trouble}")

    def run(self, works):
        """Each work in a thread of its own, to the end."""
        self.began = time.monotonic()
        threads = [threading.Thread(target=work) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.took = time.monotonic() - self.began

    def end(self, spare_mb, what, more=""):
        """Judges the daemon, stops it, says how it went; the exit status."""
        if self.next < self.count or sum(self.counts.values()) != self.count:
            self.wrong.append(f"only {sum(self.counts.values())} of {self.count} were judged")
        if self.sample() != self.expected:
            self.wrong.append("the valid request at the end was answered otherwise")
        if self.memory[-1] > self.memory[0] + spare_mb:
            self.wrong.append(f"memory grew: {self.memory} MB")
        if (code := self.daemon.stop()) != 0:
            self.wrong.append(f"the daemon stopped with exit code {code}")
        for line in self.wrong:
            print("WRONG", line)
        counts = dict(sorted(self.counts.items()))
        print(
            f"{self.count} {what} in {self.took:.0f} s: {counts}{more}; memory by tenths {self.memory} MB; {len(self.wrong)} wrong"
        )
        return 1 if self.wrong else 0
