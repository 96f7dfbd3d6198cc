"""Talk with a model in the terminal: it keeps the conversation, and answers token by token."""

import argparse
import contextlib
import sys
from collections.abc import Generator

from tinygrad_llm import text
from tinygrad_llm.commandline import Parser, add_device_flags, guarded, show_anything, use_device
from tinygrad_llm.data import instructions
from tinygrad_llm.models import GPTModel, Reader, commandline, stream_text

PROGRAM = "chat.py"

DESCRIPTION = """\
Talk with a model of yours. A model that learned a conversation's form has it beside its
weights (chat_template.json), or it is named by --template. Any other is a writer that
goes on from all that was said so far: what you type is continued, not answered."""

EPILOG = """\
in the conversation:
  /reset forgets all that was said     /quit or the end of input (Ctrl-D) leaves
  Ctrl-C ends an answer and keeps what is there

What lies further back than the model's context is forgotten.

examples:
  python examples/chat.py --model runs/pretrain
  python examples/chat.py --model runs/tuned --template chatml --system "You answer in verse." --tokens 300
"""


def parser() -> Parser:
    """The command line."""
    page = Parser(prog=PROGRAM, usage="%(prog)s --model FOLDER [flags]", description=DESCRIPTION, epilog=EPILOG)
    page.add_argument("--model", required=True, metavar="FOLDER", help="of a run")
    commandline.add_template_flag(page)
    page.add_argument("--system", metavar="TEXT", help="what comes before the conversation")
    commandline.add_sampling_flags(page)
    machine = page.add_argument_group("the machine")
    add_device_flags(machine)
    commandline.add_dtype_flag(machine)
    return page


class Conversation:
    """All that was said, and the model that goes on from it; what it has read it does not read again."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.sampling, self.generator = commandline.sampling(args), commandline.generator(args)
        self.model: GPTModel
        self.tokenizer: text.Tokenizer
        use_device(args)
        self.model, self.tokenizer = commandline.load_run(args.model, args.device, args.dtype)
        self.form = commandline.form(args, args.model)
        size, slide = commandline.window(args, self.model)
        self.reader = Reader(self.model, size, slide)
        self.reset()
        self.ids()  # what --system says is refused before the conversation, not within it

    def reset(self) -> None:
        """Forget all but the system's text."""
        system = self.args.system
        self.messages = [{"role": "system", "content": system}] if system and self.form else []
        self.written = system if system and not self.form else ""

    def ids(self) -> list[int]:
        """The conversation so far as the model reads it."""
        if self.form is None:
            return self.tokenizer.encode(self.written, disallowed_special=())
        return instructions.ask(self.messages, self.tokenizer, self.form) if self.messages else []

    def answer(self, said: str) -> Generator[str, None, None]:
        """Say something and get what the model says to it, in pieces; what was shown is kept, also of half an answer.

        Raises: ValueError for a text that the tokenizer cannot take, which is then not part of the conversation.
        """
        before = list(self.messages), self.written
        self.messages.append({"role": "user", "content": said})
        self.written += ("\n" if self.written else "") + said
        shown: list[str] = []
        try:
            ids = self.ids()
            stops = [*self.args.stop, *filter(None, [instructions.closing(self.form) if self.form else ""])]
            pieces = stream_text(
                self.model, self.tokenizer, ids, self.args.tokens, stop=stops, sampling=self.sampling,
                eos_id=commandline.ends(self.args, self.tokenizer), generator=self.generator, reader=self.reader,
            )  # fmt: skip
            for piece in pieces:
                shown.append(piece)
                yield piece
        except ValueError:
            self.messages, self.written = before
            raise
        finally:
            if shown:
                self.messages.append({"role": "assistant", "content": "".join(shown)})
                self.written += "".join(shown)


def talk(conversation: Conversation) -> None:
    """Read a line, answer it, until there are no more."""
    form = "it answers" if conversation.form else "it goes on from what you write"
    print(f"{conversation.args.model}: {form}; /reset forgets, /quit leaves")
    while True:
        try:
            said = input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n(/quit or Ctrl-D leaves)")
            continue
        if said.strip() == "/quit":
            return
        if said.strip() == "/reset":
            conversation.reset()
            print("(all forgotten)")
        elif said.strip():
            reply(conversation, said)


def reply(conversation: Conversation, said: str) -> None:
    """Print the answer as it comes; Ctrl-C ends it."""
    try:
        with contextlib.closing(conversation.answer(said)) as pieces:
            for piece in pieces:
                print(piece, end="", flush=True)
        print()
    except KeyboardInterrupt:
        print(" ...")
    except ValueError as error:
        print(f"({error})")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    show_anything()
    args = parser().parse_args(argv)
    return guarded(PROGRAM, lambda: talk(Conversation(args)))


if __name__ == "__main__":
    sys.exit(main())
