"""placeholder"""


def main(root):
    pass
