"""The probabilities of tokens, with the bytes and the text of each."""

from mlx_lfm2vl.serving.protocol.token_logprobs import token_logprobs


def test_a_token_has_its_bytes_even_where_they_are_no_text():
    tokens = [b"A", "é".encode()[:1], b"\xff<|im_end|>"]
    described = token_logprobs(tokens, [0, 1, 2, 9], [-0.5, -1.0, 0.0, -2.0])
    assert [each["token"] for each in described] == ["A", "\ufffd", "<|im_end|>", ""]
    assert [each["bytes"] for each in described[:2]] == [[65], [195]]
    assert {tuple(each["top_logprobs"]) for each in described} == {()}
