"""Requests that are not answered: kept until they are cancelled, kept for ever, or forgotten."""

import threading

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Makes its callers wait."""

    def initialize(self, args):
        self.kept = []
        self.seen = 0
        self.ending = threading.Event()
        self.threads = []

    def execute(self, requests):
        for request in requests:
            mode = pb_utils.get_input_tensor_by_name(request, "MODE").as_numpy()[0]
            sender = request.get_response_sender()
            if mode == b"keep":
                self.kept.append(sender)
            elif mode == b"watch":
                thread = threading.Thread(target=self._watch, args=(sender,))
                self.threads.append(thread)
                thread.start()
            elif mode == b"seen":
                tensor = pb_utils.Tensor("OUT", np.array([self.seen], np.int32))
                sender.send(pb_utils.InferenceResponse([tensor]), flags=1)
            elif mode == b"late":
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                self._send_late(sender)

    def _watch(self, sender):
        tensor = pb_utils.Tensor("OUT", np.array([0], np.int32))
        sender.send(pb_utils.InferenceResponse([tensor]))
        while not sender.is_cancelled() and not self.ending.wait(0.002):
            pass
        self.seen += sender.is_cancelled()
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _send_late(self, sender):
        try:
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception:
            self.seen += 100

    def finalize(self):
        self.ending.set()
        for thread in self.threads:
            thread.join()
