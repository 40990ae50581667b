# SPDX-License-Identifier: Apache-2.0
"""Opens engine directories and serves requests on them.

    engine.Engine        an engine directory, opened by the C++ reader
    runtime.Runtime      the serving loop: submit token ids, poll events
    llm.LLM              text in, text out, blocking or asynchronous
    executor.Executor    what runs a step, to be written in Python for other targets
    tokenizer.Tokenizer  text to token ids, chat templates

`abi` declares the C interface, `library` loads it. Nothing here imports the builder: an engine
directory is all that the two share.
"""
