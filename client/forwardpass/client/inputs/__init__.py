"""What callers hand in, made into what is sent.

    {"x": array}, array, data frame     ──►  tensors by name
    "cat.png", bytes, [Path("dog.jpg")] ──►  encoded images, one a row
    "text", ["one", "two"]              ──►  texts, one a row

    tensors, images, texts, numbers     a field of a request each
    frames                              tables, by the names of their columns
    arrays, arrow                       arrays of all libraries to numpy's
    dtypes                              casts to the dtype that the model states

What cannot be sent is an `InvalidInput` before anything is. Libraries of arrays and data frames are
never imported: a caller who has an object of one has imported it.
"""

from forwardpass.client.inputs.images import BinaryFile, Image, Images, Picture, pictures
from forwardpass.client.inputs.numbers import unsigned
from forwardpass.client.inputs.tensors import Inputs, as_typed, fill, latents, to_arrays
from forwardpass.client.inputs.texts import Texts, check_text, texts

__all__ = [
    "BinaryFile",
    "Image",
    "Images",
    "Inputs",
    "Picture",
    "Texts",
    "as_typed",
    "check_text",
    "fill",
    "latents",
    "pictures",
    "texts",
    "to_arrays",
    "unsigned",
]
