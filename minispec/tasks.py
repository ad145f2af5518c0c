"""What the name of a task says. A task is a translation direction: en-de translates from en into de."""

HUB = 'en'  # the language that a corpus pairs with all others, if it has it


def split_task(task):
    """The source and the target language: 'en-de' gives ('en', 'de')."""
    src, tgt = task.split('-')
    return src, tgt


def join_task(src, tgt):
    """The task that translates from src into tgt."""
    return f'{src}-{tgt}'


def reverse_task(task):
    """The task between the same languages the other way: de-en for en-de."""
    src, tgt = split_task(task)
    return join_task(tgt, src)


def from_hub(tasks):
    """The tasks that translate from the hub."""
    return [task for task in tasks if split_task(task)[0] == HUB]


def into_hub(tasks):
    """The tasks that translate into the hub."""
    return [task for task in tasks if split_task(task)[1] == HUB]
