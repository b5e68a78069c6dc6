"""How questions are worded: their templates and spellings."""

import random as stdlib_random

from scenes import Scene

LINES = ("first", "second", "third")

DESCRIBE = (
    "Describe this image.",
    "Describe the picture.",
    "What is in this image?",
    "What do you see?",
    "What does this picture show?",
    "Give a short description of the image.",
)
COUNT = (
    "How many {} are there?",
    "How many {} are in the image?",
    "How many {} do you see?",
    "Count the {}.",
)
COLOR = (
    "What color is the {}?",
    "What is the color of the {}?",
    "Which color does the {} have?",
    "Tell me the color of the {}.",
)
SHAPE = (
    "What shape is the {}?",
    "What is the shape of the {}?",
    "Which shape does the {} have?",
    "What kind of shape is the {}?",
)
SIZE = (
    "What size is the {}?",
    "How big is the {}?",
    "Is the {} small or large?",
    "Is the {} large or small?",
)
WHERE = (
    "Where is the {}?",
    "Where is the {} in the image?",
    "In which part of the image is the {}?",
    "Tell me where the {} is.",
)
RELATED = ("Is the {} {} the {}?", "Can you see the {} {} the {}?", "Is the {} placed {} the {}?")
EITHER = ("Is the {} {} or {} the {}?", "Tell me if the {} is {} or {} the {}.")
HIGHER = ("Which is {}, the {} or the {}?", "What is {}: the {} or the {}?")
DOWNWARD = ("List the objects from top to bottom.", "Name all objects from top to bottom.")
BESIDE = ("What is {} the {}?", "Which object is {} the {}?", "Tell me what is {} the {}.")
EXISTS = (
    "Is there {} in the image?",
    "Is there {}?",
    "Do you see {}?",
    "Does the image show {}?",
    "Can you see {}?",
)
READ = (
    "What does the text say?",
    "What is written?",
    "What is written in the image?",
    "Read the text.",
    "Which text is in the picture?",
)
READ_LINE = (
    "What does the {} line say?",
    "What is written in the {} line?",
    "Read the {} line.",
)
LOCATE = (
    "Give the bounding box of the {}.",
    "What is the bounding box of the {}?",
    "Return the bounding box of the {}.",
    "Locate the {} with a bounding box.",
)
DETECT = (
    "Detect all {}.",
    "Find all {} and give their boxes.",
    "Give the bounding boxes of all {}.",
    "Return the boxes of all {}.",
)
DIFFERENCE = (
    "What is different between the two images?",
    "What is the difference between the two images?",
    "Compare the two images.",
    "What has changed between the images?",
)
MORE = (
    "Which image has more {}?",
    "Which image shows more {}?",
    "Are there more {} in the first or the second image?",
)


def vary(random: stdlib_random.Random, question: str, scene: Scene) -> str:
    """Vary spelling and words: "colour" half of the time, and "shape" for "object".

    Questions that ask for a shape keep "object". If the scene has text, all others lose it, since
    text is an object but not a shape.
    """
    if random.random() < 0.5:
        question = question.replace("color", "colour")
    asks_shape = " shape" in question
    if not asks_shape and (scene.text or random.random() < 0.5):
        question = question.replace("object", "shape")
    return question


def as_object(name: str) -> str:
    """A name with "object" instead of "shape", as questions have it; `vary` may undo that."""
    return name.replace("shape", "object")
