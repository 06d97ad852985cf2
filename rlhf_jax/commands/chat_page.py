"""The page of ``rlhf-jax chat``, by Gradio. All that a model or a person wrote is shown in text boxes, as text.

Nothing leaves the machine: no statistics, no tunnel, no history in the browser, and the browser is told to load
nothing from elsewhere.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

from rlhf_jax.commands.chat import LOOPBACK
from rlhf_jax.commands.chat_session import Session, Talk, transcript
from rlhf_jax.data.records import Message
from rlhf_jax.errors import UserError

# Gradio's own scripts and styles are inline and of this origin.
_CONTENT = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"
_CHOICES = (("A", "A is better", "choose_a"), ("B", "B is better", "choose_b"), ("tie", "Equally good", "tie"))


class _ContentPolicy:
    """Sends with every answer of the server what a browser may load."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _CONTENT)]
            await send(message)

        await self._app(scope, receive, send_with_policy)


def make_page(session: Session, prompts: Iterable[tuple[Message, ...]], *, go_on: bool) -> Any:
    """The page of a session. ``prompts`` are proposed one after the other; ``go_on``: questions belong to the dialogue
    unless they are said not to.
    """
    gradio = _gradio()
    proposed = list(prompts)
    waiting = iter(proposed)

    with gradio.Blocks(title="rlhf-jax chat", analytics_enabled=False) as page:
        state = gradio.State(Talk())
        dialogue = gradio.Textbox(label="Dialogue", interactive=False, lines=2, max_lines=30)
        with gradio.Row():
            answers = [
                gradio.Textbox(label=side, interactive=False, lines=6, max_lines=40, buttons=["copy"]) for side in "AB"
            ]
        with gradio.Row():
            choosing = {name: gradio.Button(label, interactive=False) for _, label, name in _CHOICES}
            choosing["skip"] = gradio.Button("Skip", interactive=False)
        note = gradio.Textbox(label="Said", interactive=False)
        question = gradio.Textbox(label="Prompt", lines=3, max_lines=20)
        with gradio.Row():
            asking = gradio.Button("Ask", variant="primary")
            following = gradio.Button("Next prompt of the file", interactive=bool(proposed))
            keep = gradio.Checkbox(go_on, label="Go on with the dialogue")
        shown = [state, dialogue, *answers, note, *choosing.values()]

        def view(talk: Talk, said: str) -> list[Any]:
            turns = talk.turns if talk.pair is None else talk.pair.turns
            texts = ("", "") if talk.pair is None else talk.pair.texts
            buttons = [gradio.update(interactive=talk.pair is not None)] * len(choosing)
            return [talk, transcript(turns), *texts, said, *buttons]

        def reply(talk: Talk, step: Callable[[], tuple[Talk, str]]) -> list[Any]:
            try:
                return view(*step())
            except UserError as error:
                return view(talk, str(error))

        def ask(talk: Talk, text: str, go_on: bool) -> list[Any]:
            return reply(talk, lambda: _asked(session.ask(talk, text, go_on=go_on)))

        def follow(talk: Talk) -> list[Any]:
            turns = next(waiting, None)
            if turns is None:
                return view(talk, "no further prompts")
            return reply(talk, lambda: _asked(session.ask_turns(turns)))

        def chooser(choice: Any) -> Callable[[Talk], list[Any]]:
            return lambda talk: reply(talk, lambda: session.choose(talk, choice))

        def skip(talk: Talk) -> list[Any]:
            return reply(talk, lambda: (session.skip(talk), "skipped"))

        given = {"outputs": shown, "concurrency_limit": 1, "concurrency_id": "session"}
        asking.click(ask, [state, question, keep], api_name="ask", **given)
        following.click(follow, [state], api_name="next_prompt", **given)
        for choice, _, name in _CHOICES:
            choosing[name].click(chooser(choice), [state], api_name=name, **given)
        choosing["skip"].click(skip, [state], api_name="skip", **given)
    return page


def serve(page: Any, host: str, port: int | None) -> str:
    """Start serving a page in threads of its own, and say where it is; ``page.block_thread()`` waits for control-C.

    Raises:
      UserError: the port is taken, or the host is none of this machine's.
    """
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    guards = [Middleware(_ContentPolicy)]
    if host == LOOPBACK:  # another site's name that leads here must not read the page
        guards.append(Middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"]))
    try:
        _, url, _ = page.launch(
            share=False,
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            inbrowser=False,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            app_kwargs={"middleware": guards},
        )
    except OSError as error:
        raise UserError(f"chat: --port: {error}") from error
    return str(url)


def _asked(talk: Talk) -> tuple[Talk, str]:
    cut = talk.pair is not None and talk.pair.cut
    return (
        talk,
        "the model was not given the beginning of the prompt, which is longer than data.max_prompt" if cut else "",
    )


def _gradio() -> Any:
    # Read when it is imported, by it and by the library that it loads.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import gradio

    return gradio
